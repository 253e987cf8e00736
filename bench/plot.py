"""The figures of a lane as one SVG: a panel a column, a bar a peer, readable on light and on dark pages.

Written by hand, for it is rectangles and text: no plotting library is worth a dependency here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from bench.figures import OURS, Column, Series, middle
from bench.table import number

ACROSS = 3  # panels a row
WIDTH, NAME_WIDTH, VALUE_WIDTH = 300, 100, 62  # of a panel, of what stands before and after its bars, in px
BAR, STEP, HEAD, GAP = 11, 17, 34, 26

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #424a53 }
.title { font-weight: 600; fill: #1f2328 }
.ours { font-weight: 600; fill: #0969da }
rect { fill: #c4ccd6 }
rect.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #9ea7b3 }
  .title { fill: #e6edf3 }
  .ours { fill: #58a6ff }
  rect { fill: #484f58 }
  rect.ours { fill: #58a6ff }
}
"""


def svg(
    heading: str, columns: Iterable[Column], samples: Mapping[str, Mapping[str, Series]], peers: Iterable[str]
) -> str:
    """The picture, as a document."""
    names = list(peers)
    shown = [(column, samples[column.key]) for column in columns if samples.get(column.key)]
    height = HEAD + STEP * len(names)
    rows = -(-len(shown) // ACROSS)
    parts = [
        f"<text class='title' x='0' y='14'>{escape(heading)}</text>",
        *(
            _panel(
                column, subjects, names, index % ACROSS * (WIDTH + GAP), 30 + index // ACROSS * (height + GAP)
            )
            for index, (column, subjects) in enumerate(shown)
        ),
    ]
    total_width, total_height = ACROSS * (WIDTH + GAP) - GAP, 30 + rows * (height + GAP)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {total_width} {total_height}' "
        f"width='{total_width}' height='{total_height}' role='img' aria-label='{escape(heading)}'>\n"
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(column: Column, subjects: Mapping[str, Series], names: list[str], left: int, top: int) -> str:
    values = {name: middle(subjects.get(name, ())) for name in names}
    longest = max((value for value in values.values() if value is not None), default=0) or 1
    unit = f", {column.unit}" if column.unit else ""
    arrow = "↑" if column.better == "more" else "↓"
    title = escape(f"{column.title}{unit} {arrow}")
    parts = [f"<text class='title' x='{left}' y='{top + 12}'>{title}</text>"]
    for index, (name, value) in enumerate(values.items()):
        y = top + HEAD + index * STEP - 10
        ours = " class='ours'" if name == OURS else ""
        length = (value or 0) / longest * (WIDTH - NAME_WIDTH - VALUE_WIDTH)
        parts.append(f"<text{ours} x='{left + NAME_WIDTH - 6}' y='{y + 10}' text-anchor='end'>{name}</text>")
        parts.append(
            f"<rect{ours} x='{left + NAME_WIDTH}' y='{y}' width='{length:.1f}' height='{BAR}' rx='2'/>"
        )
        parts.append(
            f"<text{ours} x='{left + NAME_WIDTH + length + 5:.1f}' y='{y + 10}'>{number(value)}</text>"
        )
    return "\n".join(parts)
