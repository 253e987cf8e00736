"""Closings that are counted instead of written, so that one peer cannot flood the log.

Owns: how many of a peer's closings are written in a window, and counting the others, in bounded memory.
Refuses: which closings count at all, and how the lines look (`report`).
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WRITTEN = 10
"""Closings of one peer in a window that are written: enough to see what goes wrong."""
WINDOW = 10.0
"""Seconds. A peer that tries again all the time then costs about one line a second."""
WRITTEN_IN_ALL = 100
"""Closings of all peers in a window that are written: more tell a person nothing new."""
OTHERS = "others"
"""The peer in the count of those that exceed `WRITTEN_IN_ALL`."""
_MOST_PEERS = 1024
"""Peers that are kept in mind; when there are more, the one with the oldest window is told of and forgotten."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What was counted of one peer in a window."""

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
    """Lets the first closings of a peer through in each window, and calls ``tell`` with what it held back.

    ``clock`` gives seconds that never go back.
    """

    def __init__(
        self, tell: Callable[[Suppressed], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()  # the oldest first
        self._in_all = _Window(clock())

    def allow(self, forward: str, peer: str, reason: str) -> bool:
        """Say whether a closing is to be written; it is counted if not."""
        self.flush_due()
        if self._in_all.written >= WRITTEN_IN_ALL:
            peer = OTHERS
        window = self._windows.get((forward, peer))
        if window is None:
            if len(self._windows) >= _MOST_PEERS:
                self._close_oldest()
            window = self._windows[forward, peer] = _Window(self._clock())
        if window.written < WRITTEN and peer != OTHERS:
            window.written += 1
            self._in_all.written += 1
            return True
        window.reasons[reason] += 1
        return False

    def flush_due(self) -> None:
        """Tell of the windows that are over."""
        now = self._clock()
        if self._in_all.began + WINDOW <= now:
            self._in_all = _Window(now)
        while self._windows and next(iter(self._windows.values())).began + WINDOW <= now:
            self._close_oldest()

    def flush(self) -> None:
        """Tell of every window, because nothing more will come."""
        while self._windows:
            self._close_oldest()

    def _close_oldest(self) -> None:
        (forward, peer), window = self._windows.popitem(last=False)
        if window.reasons:
            self._tell(Suppressed(forward, peer, window.reasons.total(), dict(window.reasons)))
