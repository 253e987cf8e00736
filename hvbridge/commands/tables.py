"""How tables are shown.

Owns: their look, and that no cell is ever shortened or taken for markup. Refuses: what stands in them.
"""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_WIDEST = 1000
"""Columns; more than a row of the longest endpoints takes."""


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print ``rows`` under ``header``.

    Every cell is printed whole, so that what stands in it can be copied and found by a search: a row that is wider
    than the terminal is left to the terminal to wrap.
    """
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=False)


def print_forwards(console: Console, rows: Iterable[Sequence[str]], *more: str) -> None:
    """Print rows of name, listen, connect and what the headers ``more`` call the rest."""
    arrow = "->" if console.options.ascii_only else "→"
    header = ("forward", "listens on", "", "connects to", *more)
    print_table(
        console, header, ((name, listen, arrow, connect, *rest) for name, listen, connect, *rest in rows)
    )
