"""Decides how often an epoll that has nothing ready is polled before its task blocks."""

import os
from typing import Protocol

Events = list[tuple[int, int]]
"""Descriptors, and what each is ready for."""

MAX_EVENTS = 256
"""Events taken in one poll."""

FEW_POLLS, MANY_POLLS = 16, 100
"""Busy-poll iterations (about 5 µs and 30 µs) before blocking."""


class Pollable(Protocol):
    """An epoll."""

    def poll(self, timeout: float, maxevents: int, /) -> Events:
        """Return what is ready within ``timeout`` seconds."""


class BusyPoll:
    """Polls an epoll for a while, because the answer to a message is often on its way.

    Blocking costs about as much as `FEW_POLLS`, and more where a sleeping CPU must wake. So `FEW_POLLS` are always
    worth it, and up to `MANY_POLLS` while that has paid lately: a single ping-pong takes half as long by that.

    Whoever expects no answer calls `pause`: after bulk, since what arrives in the time that blocking takes is moved in
    one go (a fifth of the CPU of bulk); after a new connection, since the next is another task's to accept (a tenth of
    the CPU of short connections). On a machine with one CPU there is no busy-polling, as no peer can answer meanwhile.
    """

    def __init__(self, cpus: int | None = None) -> None:
        self._enabled = (cpus or os.cpu_count() or 1) > 1
        self.spin_budget = FEW_POLLS
        """Polls before blocking. A hit sets it to `MANY_POLLS`; with each miss it approaches `FEW_POLLS`."""

    def poll(self, epoll: Pollable) -> Events:
        """Return events of ``epoll``, or none if the task should block."""
        if not self._enabled:
            return []
        for _ in range(self.spin_budget):
            if ready := epoll.poll(0, MAX_EVENTS):
                self.spin_budget = MANY_POLLS
                return ready
        budget = self.spin_budget
        self.spin_budget = budget + 1 if budget < FEW_POLLS else budget * 7 // 8
        return []

    def pause(self) -> None:
        """Block at once next time, and return to `FEW_POLLS` by one poll with each miss."""
        self.spin_budget = 0
