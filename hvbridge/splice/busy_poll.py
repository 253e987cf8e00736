"""Decides how often an epoll that has nothing ready is polled before its task blocks."""

import os
from typing import Protocol

Events = list[tuple[int, int]]
"""Descriptors, and what each is ready for."""

MAX_EVENTS = 256
"""Events taken in one poll."""

FEW_POLLS, MANY_POLLS = 16, 100
"""Busy-poll iterations (about 5 µs and 30 µs) before blocking."""

BULK_PAUSE = 16
"""Times to block at once after bulk has moved, before busy-polling begins again."""


class Pollable(Protocol):
    """An epoll."""

    def poll(self, timeout: float, maxevents: int, /) -> Events:
        """Return what is ready within ``timeout`` seconds."""


class BusyPoll:
    """Polls an epoll for a while, because the answer to a message is often on its way.

    Blocking costs about as much as `FEW_POLLS`, and more where a CPU that sleeps must wake. So `FEW_POLLS` are always
    worth it, and up to `MANY_POLLS` for as long as that has paid lately. There is no busy-polling while bulk moves:
    what arrives in the time that blocking takes is moved in one go. Nor is there any on a machine with one CPU, where
    no peer can answer meanwhile.
    """

    def __init__(self, cpus: int | None = None) -> None:
        self._enabled = (cpus or os.cpu_count() or 1) > 1
        self.spin_budget = FEW_POLLS
        """Polls before blocking; below 0, times to block before polls are tried again."""

    def poll(self, epoll: Pollable) -> Events:
        """Return events of ``epoll``, or none if the task should block."""
        if not self._enabled:
            return []
        for _ in range(self.spin_budget):
            if ready := epoll.poll(0, MAX_EVENTS):
                self.spin_budget = MANY_POLLS
                return ready
        self.spin_budget = (
            self.spin_budget * 7 // 8 if self.spin_budget >= FEW_POLLS else self.spin_budget + 1
        )
        return []

    def on_bulk(self) -> None:
        """Bulk has moved."""
        self.spin_budget = -BULK_PAUSE

    def on_connection(self) -> None:
        """A connection has come: the next event is likely another, which a task of trio's must accept."""
        self.spin_budget = min(self.spin_budget, 0)
