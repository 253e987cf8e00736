"""Formats amounts and tables: amounts are rounded and short, table cells are never truncated."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hvbridge.text import escaped

_WIDEST = 1000
"""Columns; more than a row of the longest endpoints needs."""
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400  # seconds


def size(count: float) -> str:
    """Return ``count`` bytes as `812 B` or `1.4 MiB`, in no more than 9 characters."""
    if count < 999.5:
        return f"{count:.0f} B"
    power = 1
    while power < len(_UNITS) and count >= 999.95 * 1024**power:
        power += 1
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"


def rate(per_second: float | None) -> str:
    """Return bytes per second as `1.4 MiB/s`; a dash for None, if not known yet."""
    return "-" if per_second is None else f"{size(per_second)}/s"


def age(seconds: float) -> str:
    """Return a duration in its two largest units: `0.4s`, `12s`, `3m 12s`, `4d 2h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"


Cell = str | Sequence[str]
"""A text on one line, or several lines."""


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print ``rows`` under ``header``.

    Cells are never truncated, so that their text can be copied and searched; the terminal wraps rows that are too wide.
    What is unprintable in a cell is escaped: a VM's name must not move the cursor.
    """
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(_text_of, row))
    table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=False)


def _text_of(cell: Cell) -> Text:
    return Text("\n".join(map(escaped, [cell] if isinstance(cell, str) else cell)))


def print_forwards(console: Console, rows: Iterable[Sequence[Cell]], *more: str) -> None:
    """Print rows of name, listen and connect, then the columns that ``more`` names."""
    arrow = "->" if console.options.ascii_only else "→"
    header = ("forward", "listens on", "", "connects to", *more)
    print_table(
        console, header, ((name, listen, arrow, connect, *rest) for name, listen, connect, *rest in rows)
    )
