"""The bench's arithmetic: medians of per-round ratios, and the floors they are held against.

Pure. A sample is one figure of one subject in one round, None where it could not be measured. Rounds are paired:
a ratio is always taken between figures of the same round, so that a machine that drifts does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Series = Sequence[float | None]
Better = Literal["more", "less"]

OURS = "hvbridge"
BEFORE = "before"  # another hvbridge, that `--before` puts beside it
FAST = ("haproxy-copy", "haproxy-splice", "nginx")  # "the best" is the best of these, column by column


@dataclass(frozen=True)
class Column:
    """One figure that is measured: what it is called, its unit, and which way is better."""

    key: str
    title: str
    unit: str
    better: Better


@dataclass(frozen=True)
class Ratio:
    """Ours divided by another's: the median over rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float
    against: str

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Floor:
    """What one column has to reach. `against` is a subject, "best" (of FAST), or None for the figure itself."""

    column: str
    against: str | None
    limit: float


FLOORS = (
    Floor("up-1", "best", 0.9),
    Floor("down-1", "best", 1.0),
    Floor("up-16", "best", 0.9),
    Floor("down-16", "best", 0.9),
    Floor("connect", "best", 0.75),
    Floor("ping-1-p50", "best", 1.6),
    Floor("ping-64-p50", "best", 1.2),
    Floor("up-1", "socat", 1.0),
    Floor("down-1", "socat", 1.0),
    Floor("up-16", "socat", 1.0),
    Floor("down-16", "socat", 1.0),
    Floor("connect", "socat", 3.0),
    Floor("ping-1-p50", "socat", 1.5),
    Floor("ping-64-p50", "socat", 0.55),
    Floor("cpu-connect", "socat", 1.0),
    Floor("cpu-up", "socat", 1.0),
    Floor("cpu-down", "socat", 1.0),
    Floor("cpu-up", "haproxy-copy", 0.4),
    Floor("cpu-down", "haproxy-copy", 0.4),
    Floor("memory-10000", None, 6.0),
    Floor("fds-10000", None, 2.0),
    Floor("start-connect", "python -c 'import trio'", 2.5),
)


def middle(series: Series) -> float | None:
    """The median of what was measured, or None if nothing was."""
    known = [value for value in series if value is not None]
    return median(known) if known else None


def ratio(ours: Series, theirs: Series, against: str) -> Ratio | None:
    """Ours to theirs, round by round; None if no round has both (a figure of 0 counts as none)."""
    pairs = zip(ours, theirs, strict=False)
    ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    return Ratio(median(ratios), min(ratios), max(ratios), against) if ratios else None


def against_best(subjects: Mapping[str, Series], better: Better) -> Ratio | None:
    """The ratio that is hardest on us among the fast peers.

    Not the ratio to the best figure of each round: that would hand the peers their luckiest one every time.
    """
    ratios = [ratio(subjects.get(OURS, ()), subjects.get(peer, ()), peer) for peer in FAST]
    known = [r for r in ratios if r is not None]
    if not known:
        return None
    hardest = min if better == "more" else max
    return hardest(known, key=lambda r: r.median)


@dataclass(frozen=True)
class Verdict:
    """A floor beside what was measured; `value` is None where one of the two figures is missing."""

    floor: Floor
    value: float | None
    met: bool


def judge(floor: Floor, column: Column, subjects: Mapping[str, Series]) -> Verdict:
    """Hold one floor against the samples of its column."""
    value: float | None
    if floor.against is None:
        value = middle(subjects.get(OURS, ()))
    elif floor.against == "best":
        best = against_best(subjects, column.better)
        value = best.median if best else None
    else:
        one = ratio(subjects.get(OURS, ()), subjects.get(floor.against, ()), floor.against)
        value = one.median if one else None
    if value is None:
        return Verdict(floor, None, met=False)
    met = value >= floor.limit if column.better == "more" else value <= floor.limit
    return Verdict(floor, value, met)
