"""Ends the pairs whose limits are over: one task and one heap for all pairs of a splicer.

A moving byte costs nothing here: the pair notes the time, and the watch finds out when it looks, at the moment
that was due before. So a busy connection is looked at once per timeout, and a connection without limits never.
"""

import math
from heapq import heapify, heappop, heappush
from itertools import count

import trio

from hvbridge.splice.pair import Pair

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
        self._sleep = trio.CancelScope()

    def look_after(self, pair: Pair) -> None:
        """Watch ``pair`` from now on; to be called again when its next limit may have come nearer."""
        if pair.over:
            return
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
        if not pair.look or self._pairs.pop(pair.look, None) is None:
            return
        pair.due = math.inf
        if len(self._heap) > _FEW + 2 * len(self._pairs):
            self._heap = [entry for entry in self._heap if entry[1] in self._pairs]
            heapify(self._heap)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._sleep = trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf)
            with self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, number = heappop(self._heap)
                pair = self._pairs.pop(number, None)
                if pair is not None:
                    pair.due = math.inf
                    if not pair.overdue(now):
                        self.look_after(pair)
