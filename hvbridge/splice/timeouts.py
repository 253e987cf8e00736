"""Ends the pairs whose limits are over: one task and one heap for all pairs of a splicer.

A moving byte costs nothing here: the pair notes the time, and the watch finds out when it looks, at the moment
that was due before. So a busy connection is looked at once per timeout, and a connection without limits never.
Nor does a connection that is over within moments cost much: it is put in order with the others only after that.
"""

import math
from heapq import heapify, heappop, heappush
from itertools import count

import trio

from hvbridge.splice.close_rules import Pair

_SOON = 0.1
"""Seconds until a pair is looked at for the first time, to find out when it is due: many are over by then."""
_FEW = 1024
"""Entries of pairs long gone that are not worth sweeping out of the heap."""


class Watch:
    """Looks at each pair when its earliest limit may be over."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        """When to look next, and the number of that look."""
        self._pairs: dict[int, Pair] = {}
        """The pair of each look; the numbers that are missing are of looks that are needed no more."""
        self._numbers = count(1)
        self._fresh: set[Pair] = set()
        """Those that are to be looked at soon."""
        self._is_looking_soon = False
        self._sleep = trio.CancelScope()

    def look_after(self, pair: Pair) -> None:
        """Watch ``pair`` from now on; to be called again when its next limit may have come nearer."""
        if pair in self._fresh or pair.over or pair.limits.shortest == math.inf:
            return
        if pair.limits.shortest <= _SOON:
            self._place(pair)
            return
        self._fresh.add(pair)
        if not self._is_looking_soon:
            self._is_looking_soon = True
            self._sleep.deadline = min(self._sleep.deadline, trio.current_time() + _SOON)

    def _place(self, pair: Pair) -> None:
        due = pair.next_due()
        if due >= pair.due:
            return
        if pair.look:
            self.forget(pair)
        pair.due, pair.look = due, next(self._numbers)
        self._pairs[pair.look] = pair
        heappush(self._heap, (due, pair.look))
        if due < self._sleep.deadline:
            self._sleep.deadline = due

    def forget(self, pair: Pair) -> None:
        """Watch ``pair`` no longer."""
        self._fresh.discard(pair)
        if not pair.look or self._pairs.pop(pair.look, None) is None:
            return
        pair.due = math.inf
        if len(self._heap) > _FEW + 2 * len(self._pairs):
            self._heap = [entry for entry in self._heap if entry[1] in self._pairs]
            heapify(self._heap)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            deadline = self._heap[0][0] if self._heap else math.inf
            self._is_looking_soon = bool(self._fresh)
            if self._fresh:
                deadline = min(deadline, trio.current_time() + _SOON)
            self._sleep = trio.CancelScope(deadline=deadline)
            with self._sleep:
                await trio.sleep_forever()
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        # Not in `run`, whose locals would keep the last pair until the next look.
        fresh, self._fresh = self._fresh, set()
        for pair in fresh:
            self._place(pair)
        while self._heap and self._heap[0][0] <= now:
            _, number = heappop(self._heap)
            looked_at = self._pairs.pop(number, None)
            if looked_at is not None:
                looked_at.due = math.inf
                if not looked_at.overdue(now):
                    self._place(looked_at)
