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
"""Dead entries that are not worth sweeping out."""


class Watch:
    """Looks at each pair when its earliest limit may be over."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Pair]] = []
        self._serial = count()  # pairs of one moment have no order of their own
        self._dead = 0
        self._sleep = trio.CancelScope()

    def look_after(self, pair: Pair) -> None:
        """Watch ``pair`` from now on; to be called again when its next limit may have come nearer."""
        due = pair.next_due()
        if due < pair.due:
            if pair.due != math.inf:
                self._dead += 1
            pair.due = due
            heappush(self._heap, (due, next(self._serial), pair))
            if due < self._sleep.deadline:
                self._sleep.deadline = due

    def forget(self, pair: Pair) -> None:
        """Watch ``pair`` no longer."""
        if pair.due != math.inf:
            pair.due = math.inf
            self._dead += 1
            if self._dead > _FEW and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[0] == entry[2].due]
                heapify(self._heap)
                self._dead = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._sleep = trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf)
            with self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                due, _, pair = heappop(self._heap)
                if due != pair.due:
                    self._dead -= 1
                    continue
                pair.due = math.inf
                if not pair.overdue(now):
                    self.look_after(pair)
