"""One direction of a splice on Linux: bytes from one descriptor to another, for as long as neither must wait.

Owns: how the bytes move. Small messages are copied through one buffer that all pumps share; while data is bulky it
goes by splice(2) through a pipe, uncopied. Refuses: waiting, and what the ends mean.

Between two calls of `Pump.move` a pump holds only what its destination would not take: at most one buffer or one
pipe. It reads nothing more until that is gone, which is the backpressure.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import errno
import os
import sys
from typing import Final, Generic, TypeVar

assert sys.platform == "linux"

from hvbridge.splice.pair import Pair
from hvbridge.splice.pipes import Pipe, PipePool

PairT = TypeVar("PairT", bound=Pair)

DRAINED: Final = 0
"""The source has nothing more for now."""
BLOCKED: Final = 1
"""The destination takes no more for now."""
UNFINISHED: Final = 2
"""Both could go on, but it is others' turn."""
ENDED: Final = 3
"""The source has ended, and everything before its end has been passed on."""

BUFFER_SIZE = 64 * 1024
"""Bytes of the shared buffer."""
_BULKY = 32 * 1024
"""Bytes of a read from which data counts as bulky. Below, a copy costs less than splice(2)'s extra calls."""
_BUDGET = 1024 * 1024
"""Bytes that a pump may move in one turn: some 200 µs, which is how long it keeps all others waiting."""
_AT_ONCE = 1024 * 1024
"""Bytes asked of one splice(2). A pipe counts pages, and a page of socket memory may be larger than 4 KiB."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class ReadFailedError(Exception):
    """The source failed with ``error``."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class WriteFailedError(Exception):
    """The destination failed with ``error``."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class Pump(Generic[PairT]):
    """Moves what ``side`` of ``pair`` sends from descriptor ``src`` to descriptor ``dst``, both non-blocking."""

    __slots__ = (
        *("_buffer", "_bulky", "_in_hand", "_may_splice", "_pipe", "_piped", "_pipes"),
        *("armed", "blocked", "done", "dst", "pair", "side", "src", "thorough"),
    )

    def __init__(
        self,
        pair: PairT,
        side: int,
        src: int,
        dst: int,
        plain: bool,
        buffer: memoryview,
        pipes: PipePool,
    ) -> None:
        self.pair = pair
        self.side = side
        self.src = src
        self.dst = dst
        self.thorough = not plain
        """Whether a read that fills not the whole buffer leaves the question whether there is more."""
        self._may_splice = plain
        self._buffer = buffer
        self._pipes = pipes
        self._bulky = False
        self._in_hand: bytes | None = None
        self._pipe: Pipe | None = None
        self._piped = 0
        # Kept by the plane:
        self.blocked = False
        self.armed = False
        self.done = False

    def move(self, now: float) -> int:
        """Move what can be moved without waiting, and say why no more.

        Raises `ReadFailedError`, after everything that came before the failure has been passed on, and
        `WriteFailedError`.
        """
        if self._in_hand is not None:
            data, self._in_hand = self._in_hand, None
            if not self._write(memoryview(data)):
                return BLOCKED
        if self._piped and not self._empty_pipe():
            return BLOCKED
        return self._splice(now) if self._bulky else self._copy(now)

    def stop(self) -> None:
        """Move nothing ever again, and drop what is held."""
        self.done = True
        self.blocked = False
        self._in_hand = None
        self._return_pipe()

    # Small messages.

    def _copy(self, now: float) -> int:
        buffer, budget = self._buffer, _BUDGET
        while budget > 0:
            try:
                received = os.readv(self.src, (buffer,))
            except BlockingIOError:
                return DRAINED
            except OSError as error:
                raise ReadFailedError(error) from None
            if not received:
                return ENDED
            self.pair.received(self.side, received, now)
            if not self._write(buffer[:received]):
                return BLOCKED
            if received >= _BULKY and self._may_splice:
                self._bulky = True
                return self._splice(now)
            if received < BUFFER_SIZE and not self.thorough:
                return DRAINED
            budget -= received
        return UNFINISHED

    def _write(self, data: memoryview) -> bool:
        try:
            sent = os.write(self.dst, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise WriteFailedError(error) from None
        if sent == len(data):
            return True
        self._in_hand = bytes(data[sent:])
        return False

    # Bulk.

    def _splice(self, now: float) -> int:
        if self._pipe is None:
            self._pipe = self._pipes.take()
            if self._pipe is None:
                self._bulky = False
                return self._copy(now)
        pipe, moved = self._pipe, 0
        while moved < _BUDGET:
            try:
                received = os.splice(self.src, pipe.write, _AT_ONCE, flags=_FLAGS)
            except BlockingIOError:
                self._bulky = moved >= _BULKY
                self._return_pipe()
                return DRAINED
            except OSError as error:
                self._return_pipe()
                if error.errno == errno.EINVAL:  # this kernel cannot splice from this socket
                    self._bulky = self._may_splice = False
                    return self._copy(now)
                raise ReadFailedError(error) from None
            if not received:
                self._return_pipe()
                return ENDED
            self.pair.received(self.side, received, now)
            self._piped = received
            if not self._empty_pipe():
                return BLOCKED
            moved += received
        self._return_pipe()
        return UNFINISHED

    def _empty_pipe(self) -> bool:
        assert self._pipe is not None
        while self._piped:
            try:
                self._piped -= os.splice(self._pipe.read, self.dst, self._piped, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError as error:
                raise WriteFailedError(error) from None
        return True

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=not self._piped)
            self._pipe, self._piped = None, 0
