"""The pipes through which splice(2) moves bulk: a capped pool, from which a pipe is out only while data moves.

Owns: making, sizing and keeping pipes. Refuses: what flows through them; but a pipe that may hold bytes of one
connection never serves another.
"""

import fcntl
import os
import sys
from contextlib import suppress

assert sys.platform == "linux"

_SIZE = 1024 * 1024
"""Bytes of a pipe: what several reads may fill before it is emptied. An unprivileged user's pipes hold 64 MiB in all by
default; what is asked for beyond is refused, and a pipe then keeps the size it was made with."""

_MOST = 48
"""Pipes at once: three quarters of that allowance, as the user may have other programs. Who gets none copies."""

_SPARE = 16
"""Pipes kept for the next in need."""


class Pipe:
    """An empty pipe."""

    __slots__ = ("read", "write")

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, _SIZE)

    def close(self) -> None:
        """Close both ends, and drop what is between them."""
        os.close(self.read)
        os.close(self.write)


class PipePool:
    """Lends pipes."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self._lent = 0

    def take(self) -> Pipe | None:
        """Lend a pipe, or None when all are out or the process has no descriptors left."""
        if self._spare:
            pipe = self._spare.pop()
        elif self._lent >= _MOST:
            return None
        else:
            try:
                pipe = Pipe()
            except OSError:
                return None
        self._lent += 1
        return pipe

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """Take ``pipe`` back; it serves again only if ``empty``."""
        self._lent -= 1
        if empty and len(self._spare) < _SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._spare:
            self._spare.pop().close()
