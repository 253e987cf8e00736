"""The figures as tables on a terminal: columns by peers, then floors met and missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.figures import (
    BEFORE,
    FLOORS,
    OURS,
    Column,
    Floor,
    Ratio,
    Series,
    against_best,
    judge,
    middle,
    ratio,
)

NONE = "-"


def number(value: float | None) -> str:
    """Three significant digits, thousands with a comma, nothing in exponents."""
    if value is None:
        return NONE
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _compared(r: Ratio | None) -> str:
    return str(r) if r else NONE


def figures(
    title: str, columns: Iterable[Column], samples: Mapping[str, Mapping[str, Series]], peers: Iterable[str]
) -> Table:
    """Medians over the rounds, with our ratio to the best of the fast peers and to socat."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    names = list(peers)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name.replace("-", "\n"), justify="right", style="bold" if name == OURS else None)
    table.add_column("ours ÷ best\n(lowest-highest)", justify="right", no_wrap=True)
    table.add_column("the\nbest", no_wrap=True)
    table.add_column("ours ÷ socat\n(lowest-highest)", justify="right", no_wrap=True)
    for column in columns:
        subjects = samples.get(column.key, {})
        if not subjects:
            continue
        arrow = "↑" if column.better == "more" else "↓"
        best = against_best(subjects, column.better)
        socat = ratio(subjects.get(OURS, ()), subjects.get("socat", ()), "socat")
        table.add_row(
            f"{arrow} {column.title}",
            column.unit,
            *(number(middle(subjects.get(name, ()))) for name in names),
            _compared(best),
            best.against if best else "",
            _compared(socat),
        )
    return table


def startup(column: Column, subjects: Mapping[str, Series], base: str) -> Table:
    """Start-up times, and each against the bare interpreter that has trio."""
    table = Table(title="start-up", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("to the first byte through (interpreters: to their exit)")
    table.add_column(column.unit, justify="right")
    table.add_column(f"÷ {base}", justify="right")
    for name, series in subjects.items():
        label = "hvbridge connect" if name == OURS else name
        table.add_row(label, number(middle(series)), _compared(ratio(series, subjects.get(base, ()), base)))
    return table


def changes(columns: Iterable[Column], samples: Mapping[str, Mapping[str, Series]]) -> Table | None:
    """What has changed since `before`, or None where it was not measured."""
    table = Table(title="against the hvbridge before", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("column")
    table.add_column("now ÷ before (lowest-highest)", justify="right")
    for column in columns:
        subjects = samples.get(column.key, {})
        if one := ratio(subjects.get(OURS, ()), subjects.get(BEFORE, ()), BEFORE):
            arrow = "↑" if column.better == "more" else "↓"
            table.add_row(f"{arrow} {column.title}", str(one))
    return table if table.row_count else None


def floors(columns: Mapping[str, Column], samples: Mapping[str, Mapping[str, Series]]) -> Table | None:
    """Every floor whose column was measured."""
    table = Table(title="floors", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("column", "ours", "floor", "measured", ""):
        table.add_column(heading, justify="right" if heading in ("floor", "measured") else "left")
    for floor in FLOORS:
        subjects = samples.get(floor.column)
        if not subjects or floor.column not in columns:
            continue
        column = columns[floor.column]
        verdict = judge(floor, column, subjects)
        mark = Text("met", "green") if verdict.met else Text("missed", "bold red")
        if verdict.value is None:
            mark = Text("not measured", "yellow")
        sign = "≥" if column.better == "more" else "≤"
        table.add_row(
            column.title, _against(floor, column), f"{sign} {floor.limit:g}", number(verdict.value), mark
        )
    return table if table.row_count else None


def _against(floor: Floor, column: Column) -> str:
    return f"÷ {floor.against}" if floor.against else column.unit


def markdown(
    columns: Iterable[Column], samples: Mapping[str, Mapping[str, Series]], peers: Iterable[str]
) -> str:
    """The medians and our ratio to the best, as a Markdown table."""
    names = list(peers)
    lines = ["| | " + " | ".join(names) + " | ours ÷ best |", "|---|" + "---:|" * (len(names) + 1)]
    for column in columns:
        if subjects := samples.get(column.key):
            best = against_best(subjects, column.better)
            cells = [
                f"{'↑' if column.better == 'more' else '↓'} {column.title}, {column.unit}",
                *(number(middle(subjects.get(name, ()))) for name in names),
                f"{best.median:.2f} ({best.against})" if best else NONE,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def console() -> Console:
    """A terminal as it is; a file or a pipe wide enough for every peer."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=184)
