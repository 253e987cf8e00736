"""How forwards are shown as a table.

Owns: its look, and that no cell is ever shortened. Refuses: what stands in it.
"""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 1000
"""Columns; more than a row of the longest endpoints takes."""


def print_forwards(console: Console, rows: Iterable[Sequence[str]], *more: str) -> None:
    """Print rows of name, listen, connect and what the headers ``more`` call the rest.

    Every cell is printed whole, so that an endpoint can be copied and found by a search: a row that is wider
    than the terminal is left to the terminal to wrap.
    """
    arrow = "->" if console.options.ascii_only else "→"
    header = ("forward", "listens on", "", "connects to", *more)
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for name, listen, connect, *rest in rows:
        table.add_row(name, listen, arrow, connect, *rest)
    table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=False)
