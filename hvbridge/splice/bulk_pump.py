"""Moves the bulk data of one direction on Linux, from its first large read until the source is drained.

Bytes go by splice(2) through a pipe, or through one shared buffer where there is no pipe or splice(2) does not work.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import errno
import os
import socket
import sys
from typing import Any

assert sys.platform == "linux"

from os import readv, splice

from hvbridge.splice.direction import BUDGET, Direction, Progress
from hvbridge.splice.pipe_pool import PIPE_SIZE, Pipe

BULK_THRESHOLD = 32 * 1024
"""Bytes of a read from which data counts as bulk. Below, the set-up of a splice costs more than it saves."""

SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

UNIX_SEND_BUFFER = 1024 * 1024
"""Bytes of the send buffer of a Unix socket that takes bulk. Unlike TCP's it never grows by itself; with the default of
208 KiB, throughput was 0.88 of this."""


class BulkPump:
    """Moves the bulk data of ``direction``, after ``unsent``, which was read before."""

    __slots__ = ("_direction", "_pipe", "_piped", "_read_error", "_unsent", "active")

    def __init__(self, direction: Direction[Any], unsent: bytes) -> None:
        self._direction = direction
        self._unsent: bytes | memoryview = unsent
        self._pipe: Pipe | None = None
        self._piped = 0
        """Bytes in the pipe."""
        self._read_error: OSError | None = None
        """Raised once the pipe is empty."""
        self.active = True
        """False once the source has given so little that it counts as messages again."""
        self._enlarge_send_buffer()

    def move(self, now: float) -> Progress:
        """See `hvbridge.splice.epoll_pump.Pump.move`."""
        direction = self._direction
        direction.shared.busy_poll.pause()
        if self._unsent or self._piped:
            direction.connection.last_activity = now  # a slow reader is not idle
            if stop := self._flush():
                return stop
        if direction.splices:
            if self._pipe is None:
                self._pipe = direction.shared.pipes.borrow()
            if self._pipe is not None:
                return self._splice(self._pipe, now)
        return self._copy(now)

    def drop(self) -> None:
        """Drop what the destination has not taken."""
        self._unsent = b""
        self._return_pipe()

    def _splice(self, pipe: Pipe, now: float) -> Progress:
        direction = self._direction
        moved = 0
        try:
            while moved < BUDGET:
                try:
                    self._fill(pipe)
                except BlockingIOError:
                    return self._drained(moved)
                except OSError as error:
                    if error.errno == errno.EINVAL:
                        direction.splices = False  # as in a sandbox whose kernel lacks it
                        return self._copy(now)
                    direction.error = error
                    return Progress.READ_ERROR
                if not self._piped:
                    return Progress.EOF
                moved += self._piped
                direction.connection.received(direction.side, self._piped, now)
                if stop := self._flush():
                    return stop
            return Progress.UNFINISHED
        finally:
            if not self._piped:
                self._return_pipe()

    def _fill(self, pipe: Pipe) -> None:
        """Fill the empty ``pipe``. Raises OSError if nothing was read.

        After a large read another is tried: a sender on the same CPU may have written again meanwhile, and emptying
        the pipe wakes the destination. It saves about a tenth of the CPU of bulk.
        """
        if self._read_error is not None:
            raise self._read_error
        received = self._piped = splice(self._direction.src, pipe.write, PIPE_SIZE, None, None, SPLICE_FLAGS)
        while received >= BULK_THRESHOLD:
            try:
                received = splice(self._direction.src, pipe.write, PIPE_SIZE, None, None, SPLICE_FLAGS)
            except BlockingIOError:  # the source is empty or the pipe is full
                return
            except OSError as error:
                self._read_error = error
                return
            self._piped += received

    def _copy(self, now: float) -> Progress:
        direction, buffer = self._direction, self._direction.shared.buffer
        moved = 0
        while moved < BUDGET:
            try:
                received = readv(direction.src, (buffer,))
            except BlockingIOError:
                return self._drained(moved)
            except OSError as error:
                direction.error = error
                return Progress.READ_ERROR
            if not received:
                return Progress.EOF
            direction.connection.received(direction.side, received, now)
            self._unsent = buffer[:received]
            if stop := self._flush():
                return stop
            moved += received
            if received < len(buffer) and not direction.read_until_eagain:
                return self._drained(moved)
        return Progress.UNFINISHED

    def _flush(self) -> Progress:
        """Write what has been read. `Progress.DRAINED` if all of it was taken."""
        direction = self._direction
        try:
            while self._piped:
                assert self._pipe is not None
                self._piped -= splice(self._pipe.read, direction.dst, self._piped, None, None, SPLICE_FLAGS)
            if self._unsent:
                self._unsent = bytes(self._unsent[_write(direction.dst, self._unsent) :])
        except BlockingIOError:
            return Progress.BLOCKED
        except OSError as error:
            direction.error = error
            return Progress.WRITE_ERROR
        return Progress.BLOCKED if self._unsent else Progress.DRAINED

    def _drained(self, moved: int) -> Progress:
        if moved:  # else the last read emptied the source, and the next may be as large
            self.active = moved >= BULK_THRESHOLD
        return Progress.DRAINED

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._direction.shared.pipes.give_back(self._pipe, empty=not self._piped)
            self._pipe, self._piped = None, 0

    def _enlarge_send_buffer(self) -> None:
        """Set `UNIX_SEND_BUFFER` on a Unix socket whose size nobody has chosen."""
        sink = self._direction.sink.plain
        if sink is not None and sink.family == socket.AF_UNIX:
            size = sink.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            if size == self._direction.shared.unix_send_buffer:
                sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER)


def _write(fd: int, data: bytes | memoryview) -> int:
    """Write what ``fd`` takes without blocking, and return how many bytes that was."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
