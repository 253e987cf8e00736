"""The bulk of one direction of a splice on Linux, from its first large read until the source has nothing more.

Owns: how bulk moves, by splice(2) through a pipe or through one large buffer, and what of it is held. Refuses:
messages, whose ways are shorter (`pump`).
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import errno
import os
import socket
import sys
from typing import Final

assert sys.platform == "linux"

from os import readv, splice, write

from hvbridge.splice.close_rules import Pair
from hvbridge.splice.pipe_pool import Pipe, PipePool

DRAINED: Final = 0
"""The source has nothing more for now."""
BLOCKED: Final = 1
"""The destination takes no more for now."""
UNFINISHED: Final = 2
"""Both could go on, but it is others' turn."""
ENDED: Final = 3
"""The source has ended, and everything before its end has been passed on."""
READ_FAILED: Final = 4
WRITE_FAILED: Final = 5
"""The source, or the destination, failed; ``error`` says how."""

FROM: Final = 32 * 1024
"""Bytes of a read from which data counts as bulk. Below, the ways of bulk cost more than they save."""
BUDGET: Final = 1024 * 1024
"""Bytes that may be moved in one turn: some 200 µs, which is how long it keeps all others waiting."""

_SPLICED = 1024 * 1024
"""Bytes asked of one splice(2). A pipe counts pages, and a page of socket memory may be larger than 4 KiB."""
_WORTH_MORE = 128 * 1024
"""Bytes of one splice(2) after which another is tried before the pipe is emptied: the source may have been refilled
meanwhile, as by a sender on the same CPU, and that saves the destination a wake-up."""
_ENOUGH = 768 * 1024
"""Bytes in the pipe after which none is tried."""
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_FIRST_COPIED = 64 * 1024
_MOST_COPIED = 512 * 1024
"""Bytes of the first and of the largest read that is copied; the second is the size of the one buffer for it."""

_SEND_BUFFER = 1024 * 1024
"""Bytes of the send buffer of a Unix socket that takes bulk. Unlike TCP's it never grows by itself, and with the
208 KiB of most systems half of the time goes into waking up."""


class Shared:
    """What the bulk of all connections of a plane shares."""

    __slots__ = ("buffer", "pipes", "streams", "unix_send_buffer")

    def __init__(self) -> None:
        self.pipes = PipePool()
        self.buffer = memoryview(bytearray(_MOST_COPIED))
        self.streams = False
        """Whether more than messages has moved; whoever wants to know resets it."""
        with socket.socket(socket.AF_UNIX) as fresh:
            self.unix_send_buffer = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            """Bytes of a send buffer whose size nobody has chosen."""


class Bulk:
    """Moves bulk from the descriptor ``src`` to ``sink``, after what is ``held`` for it.

    ``splices`` says that splice(2) works.
    """

    __slots__ = (
        *("_dst", "_failure", "_held", "_pipe", "_piped", "_reach", "_shared", "_src"),
        *("error", "goes_on", "splices"),
    )

    def __init__(self, src: int, sink: socket.socket, splices: bool, shared: Shared, held: bytes) -> None:
        self._src = src
        self._dst = sink.fileno()
        self.splices = splices
        """Whether splice(2) works here, as far as has been seen."""
        self._shared = shared
        self._held = held
        self._pipe: Pipe | None = None
        self._piped = 0
        self._reach = _FIRST_COPIED
        self._failure: OSError | None = None
        """What a read failed with, while what came before it is in the pipe."""
        self.error: OSError | None = None
        """What a read or a write failed with."""
        self.goes_on = True
        """Whether more of it is to be expected, or something is held."""
        if sink.family == socket.AF_UNIX:
            size = sink.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            if size == shared.unix_send_buffer:
                sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def move(self, pair: Pair, side: int, thorough: bool, now: float) -> int:
        """As `hvbridge.splice.epoll_pump.Pump.move`."""
        self._shared.streams = True
        if self._held or self._piped:
            pair.active = now  # a destination that slowly takes what is held is not idle
            if not self._pass_on_held():
                return self._stuck()
        if self.splices:
            if self._pipe is None:
                self._pipe = self._shared.pipes.take()
            if self._pipe is not None:
                return self._splice(self._pipe, pair, side, thorough, now)
        return self._copy(pair, side, thorough, now)

    def drop(self) -> None:
        """Drop what is held."""
        self._held = b""
        self._return_pipe()

    def _splice(self, pipe: Pipe, pair: Pair, side: int, thorough: bool, now: float) -> int:
        moved = 0
        try:
            while moved < BUDGET or self._failure is not None:
                if self._failure is not None:
                    self.error = self._failure
                    return READ_FAILED
                try:
                    self._fill(pipe)
                except BlockingIOError:  # nothing more, or no room in the pipe: the next round will tell
                    if not self._piped:
                        return self._drained(moved)
                except OSError as error:
                    if error.errno == errno.EINVAL and not self._piped:
                        self.splices = False  # as where a sandbox's kernel cannot splice
                        return self._copy(pair, side, thorough, now)
                    self._failure = error
                    if not self._piped:
                        continue
                if not self._piped:
                    return ENDED
                moved += self._piped
                if not self._empty(pipe):
                    return self._stuck()
            return UNFINISHED
        finally:
            if moved:
                pair.received(side, moved, now)
            if not self._piped:
                self._return_pipe()

    def _fill(self, pipe: Pipe) -> None:
        received = self._piped = splice(self._src, pipe.write, _SPLICED, None, None, _FLAGS)
        while received >= _WORTH_MORE and self._piped < _ENOUGH:
            received = splice(self._src, pipe.write, _SPLICED, None, None, _FLAGS)
            self._piped += received

    def _copy(self, pair: Pair, side: int, thorough: bool, now: float) -> int:
        moved = 0
        while moved < BUDGET:
            asked = self._reach
            try:
                received = readv(self._src, (self._shared.buffer[:asked],))
            except BlockingIOError:
                return self._drained(moved)
            except OSError as error:
                self.error = error
                return READ_FAILED
            if not received:
                return ENDED
            pair.received(side, received, now)
            if not self._write(self._shared.buffer[:received]):
                # Read no more at once than is taken at once: what is not taken must be held.
                self._reach = max(_FIRST_COPIED, received - len(self._held))
                return self._stuck()
            moved += received
            if received < asked and not thorough:
                return self._drained(moved)
            self._reach = min(2 * asked, _MOST_COPIED)
        return UNFINISHED

    def _drained(self, moved: int) -> int:
        if moved:
            self.goes_on = moved >= FROM
        return DRAINED

    # What the destination would not take.

    def _stuck(self) -> int:
        """Why something is still held."""
        return BLOCKED if self.error is None else WRITE_FAILED

    def _pass_on_held(self) -> bool:
        """Pass on what is held, and say whether nothing is left of it."""
        if self._pipe is not None:
            return self._empty(self._pipe)
        return self._write(memoryview(self._held))

    def _write(self, data: memoryview) -> bool:
        """Pass on ``data``, hold what is left of it, and say whether nothing is."""
        try:
            sent = write(self._dst, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.error = error
            return False
        self._held = bytes(data[sent:])
        return not self._held

    def _empty(self, pipe: Pipe) -> bool:
        while self._piped:
            try:
                self._piped -= splice(pipe.read, self._dst, self._piped, None, None, _FLAGS)
            except BlockingIOError:
                return False
            except OSError as error:
                self.error = error
                return False
        return True

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._shared.pipes.give_back(self._pipe, empty=not self._piped)
            self._pipe, self._piped = None, 0
