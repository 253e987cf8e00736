"""The pace of a limited bandwidth: how long to wait after some bytes, given how long moving them has taken."""

_CREDIT = 0.1
"""Seconds of the bandwidth that may be made up for, after a wait for the peer or an oversleep."""


class Pace:
    """Keeps ``bandwidth`` bytes a second in one direction. ``now`` is trio's clock, here and below."""

    __slots__ = ("_bandwidth", "_due")

    def __init__(self, bandwidth: float, now: float) -> None:
        self._bandwidth = bandwidth
        self._due = now

    def due(self, count: int, now: float) -> float:
        """Return when more may be moved, after ``count`` bytes have been."""
        self._due = max(self._due, now - _CREDIT) + count / self._bandwidth
        return self._due
