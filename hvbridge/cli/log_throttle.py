"""Limits how many closings of one peer are logged per window, in bounded memory; the others are counted."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WRITTEN = 10
"""Closings of one peer that are logged per window: enough to see what goes wrong."""
WINDOW = 10.0
"""Seconds. A peer that retries continuously then costs about one line per second."""
WRITTEN_IN_ALL = 100
"""Closings of all peers in a window that are logged: more would tell a person nothing new."""
OTHERS = "others"
"""The peer in the count of those that exceed `WRITTEN_IN_ALL`."""
MOST_PEERS = 1024
"""Peers that are tracked; beyond that, the one with the oldest window is flushed."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """The suppressed closings of one peer in a window."""

    forward: str
    peer: str
    count: int
    reasons: Mapping[str, int]


@dataclass(slots=True)
class _Window:
    began: float
    written: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class LogThrottle:
    """Allows the first closings of a peer in each window, and calls ``on_suppressed`` with the count of the others.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self, on_suppressed: Callable[[Suppressed], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_suppressed = on_suppressed
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()  # the oldest first
        self._in_all = _Window(clock())

    def allow(self, forward: str, peer: str, reason: str) -> bool:
        """Return whether to log a closing; if not, it is counted."""
        self.flush_due()
        if self._in_all.written >= WRITTEN_IN_ALL:
            peer = OTHERS
        window = self._windows.get((forward, peer))
        if window is None:
            if len(self._windows) >= MOST_PEERS:
                self._close_oldest()
            window = self._windows[forward, peer] = _Window(self._clock())
        if window.written < WRITTEN and peer != OTHERS:
            window.written += 1
            self._in_all.written += 1
            return True
        window.reasons[reason] += 1
        return False

    def flush_due(self) -> None:
        """Report the windows that have ended."""
        now = self._clock()
        if self._in_all.began + WINDOW <= now:
            self._in_all = _Window(now)
        while self._windows and next(iter(self._windows.values())).began + WINDOW <= now:
            self._close_oldest()

    def flush(self) -> None:
        """Report every window, at the end of the process."""
        while self._windows:
            self._close_oldest()

    def _close_oldest(self) -> None:
        (forward, peer), window = self._windows.popitem(last=False)
        if window.reasons:
            self._on_suppressed(Suppressed(forward, peer, window.reasons.total(), dict(window.reasons)))
