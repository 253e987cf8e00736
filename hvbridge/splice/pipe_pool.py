"""A bounded pool of the pipes through which splice(2) moves bulk data.

A pipe that may still hold bytes of one connection is never used for another.
"""

import fcntl
import os
import sys
from contextlib import suppress

assert sys.platform == "linux"

PIPE_SIZE = 1024 * 1024
"""Bytes of a pipe: room for several reads. By default an unprivileged user's pipes may hold 64 MiB in all; beyond that
the kernel refuses, and a pipe keeps the size it was made with."""

MAX_PIPES = 48
"""Pipes in use at once: three quarters of that allowance. Without a pipe, data is copied."""

MAX_SPARE = 16
"""Unused pipes that are kept open."""


class Pipe:
    """A non-blocking pipe of `PIPE_SIZE` where the kernel allows it."""

    __slots__ = ("read", "write")

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def close(self) -> None:
        """Close both ends and drop what is between them."""
        os.close(self.read)
        os.close(self.write)


class PipePool:
    """Lends at most `MAX_PIPES` pipes."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self.lent = 0

    def borrow(self) -> Pipe | None:
        """Return an empty pipe, or None if all are lent or the process is out of descriptors."""
        if self._spare:
            pipe = self._spare.pop()
        elif self.lent >= MAX_PIPES:
            return None
        else:
            try:
                pipe = Pipe()
            except OSError:
                return None
        self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """Return a borrowed pipe. It is used again only if ``empty``."""
        self.lent -= 1
        if empty and len(self._spare) < MAX_SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the spare pipes."""
        while self._spare:
            self._spare.pop().close()
