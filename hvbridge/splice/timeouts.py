"""Ends connections whose limits have passed: one task and one heap for all connections of a splicer.

A moving byte costs nothing here. The connection notes the time of its last byte, and the queue compares it when the
earlier deadline comes. So a busy connection is checked once per timeout, and one without limits never. A connection
enters the heap only after `FIRST_CHECK` seconds: most short ones are over by then.
"""

import math
from heapq import heapify, heappop, heappush
from itertools import count

import trio

from hvbridge.splice.close_rules import CloseState

FIRST_CHECK = 0.1
"""Seconds before a new connection enters the heap."""
STALE_ENTRIES = 1024
"""Heap entries of closed connections that are not worth removing yet."""


class TimeoutQueue:
    """Calls `CloseState.check_limits` on each connection when its earliest limit may have passed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        """Deadline and id of each entry."""
        self._entries: dict[int, CloseState] = {}
        """The connection of each entry; ids that are missing are stale."""
        self._ids = count(1)
        self._new: set[CloseState] = set()
        """Connections that are not in the heap yet."""
        self._wakes_for_new = False
        self._sleep = trio.CancelScope()

    def add(self, connection: CloseState) -> None:
        """Watch ``connection``. Call again when its next deadline may have come nearer."""
        if connection in self._new or connection.over or connection.limits.shortest == math.inf:
            return
        if connection.limits.shortest <= FIRST_CHECK:
            self._push(connection)
            return
        self._new.add(connection)
        if not self._wakes_for_new:
            self._wakes_for_new = True
            self._sleep.deadline = min(self._sleep.deadline, trio.current_time() + FIRST_CHECK)

    def discard(self, connection: CloseState) -> None:
        """Stop watching ``connection``."""
        self._new.discard(connection)
        if not connection.entry_id or self._entries.pop(connection.entry_id, None) is None:
            return
        connection.next_check = math.inf
        if len(self._heap) > STALE_ENTRIES + 2 * len(self._entries):
            self._heap = [entry for entry in self._heap if entry[1] in self._entries]
            heapify(self._heap)

    async def run(self) -> None:
        """Check deadlines until cancelled."""
        while True:
            deadline = self._heap[0][0] if self._heap else math.inf
            self._wakes_for_new = bool(self._new)
            if self._new:
                deadline = min(deadline, trio.current_time() + FIRST_CHECK)
            self._sleep = trio.CancelScope(deadline=deadline)
            with self._sleep:
                await trio.sleep_forever()
            self._check(trio.current_time())

    def _check(self, now: float) -> None:
        # Not inlined in `run`: its locals would keep the last connection alive until the next deadline.
        new, self._new = self._new, set()
        for connection in new:
            self._push(connection)
        while self._heap and self._heap[0][0] <= now:
            _, entry_id = heappop(self._heap)
            due = self._entries.pop(entry_id, None)
            if due is not None:
                due.next_check = math.inf
                if not due.check_limits(now):
                    self._push(due)

    def _push(self, connection: CloseState) -> None:
        deadline = connection.next_deadline()
        if deadline >= connection.next_check:
            return
        if connection.entry_id:
            self.discard(connection)
        connection.next_check, connection.entry_id = deadline, next(self._ids)
        self._entries[connection.entry_id] = connection
        heappush(self._heap, (deadline, connection.entry_id))
        if deadline < self._sleep.deadline:
            self._sleep.deadline = deadline
