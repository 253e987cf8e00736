"""Counts how many more there may be of something, and lets those above the limit wait.

Owns: the count. Refuses: deadlines. It is trio's semaphore without the turn of the scheduler and the protection
from Ctrl-C that each acquire pays there, since every connection passes two of these.
"""

import trio


class Slots:
    """``free`` slots of a limit: whoever takes one subtracts it, and must `leave` it."""

    __slots__ = ("_are_waiting", "_waiting", "free", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit
        """Fewer than none where the limit was lowered below what was taken."""
        self._waiting = trio.lowlevel.ParkingLot()
        self._are_waiting = False
        """Whether any may wait; asking the lot takes longer than all else in `leave`."""

    async def wait(self) -> None:
        """Wait until a slot is free; it is the caller's when it takes it before it waits for anything else."""
        while self.free <= 0:
            self._are_waiting = True
            await self._waiting.park()

    def leave(self) -> None:
        """Give a slot back."""
        self.free += 1
        if self._are_waiting:
            self._waiting.unpark()
            self._are_waiting = bool(self._waiting)

    def resize(self, limit: int) -> None:
        """Change the limit; who has a slot keeps it."""
        self.free += limit - self.limit
        self.limit = limit
        self._waiting.unpark_all()
