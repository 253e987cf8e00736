"""One direction of a splice on Linux: bytes from one descriptor to another, for as long as neither must wait.

Owns: how the bytes move. Small messages are copied; while data is bulky it goes by splice(2) through a
pipe, uncopied. Refuses: waiting, and what the ends mean.

Between two calls of `Pump.move` a pump holds only what its destination would not take: at most one read or one
pipe. It reads nothing more until that is gone, which is the backpressure.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import errno
import os
import sys
from os import read, splice, write
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

_READ = 64 * 1024
"""Bytes of a read."""
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
        *("_bulky", "_in_hand", "_may_splice", "_pipe", "_piped", "_pipes"),
        *("armed", "blocked", "done", "dst", "pair", "side", "src", "thorough"),
    )

    def __init__(self, pair: PairT, side: int, src: int, dst: int, plain: bool, pipes: PipePool) -> None:
        self.pair = pair
        self.side = side
        self.src = src
        self.dst = dst
        self.thorough = not plain
        """Whether a read that got less than it asked for leaves open whether there is more."""
        self._may_splice = plain
        self._pipes = pipes
        self._bulky = False
        self._in_hand: bytes | None = None
        self._pipe: Pipe | None = None
        self._piped = 0
        # The plane's own notes:
        self.blocked = False
        self.armed = False
        self.done = False

    def move(self, now: float) -> int:
        """Move what can be moved without waiting, and say why no more.

        Raises `ReadFailedError`, after everything that came before the failure has been passed on, and
        `WriteFailedError`.
        """
        if (self._in_hand or self._piped) and not self._empty_hand():
            return BLOCKED
        if self._bulky and self._has_pipe():
            return self._splice(now)
        # A small message, the most common case by far, is moved without a further call of Python's: each would
        # add a tenth to its cost.
        budget = _BUDGET
        while budget > 0:
            try:
                data = read(self.src, _READ)
            except BlockingIOError:
                return DRAINED
            except OSError as error:
                raise ReadFailedError(error) from None
            if not data:
                return ENDED
            received = len(data)
            pair = self.pair
            pair.active = now
            if self.side:
                pair.transfer.upstream_to_client += received
            else:
                pair.transfer.client_to_upstream += received
            try:
                sent = write(self.dst, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise WriteFailedError(error) from None
            if sent < received:
                self._in_hand = data[sent:]
                return BLOCKED
            if received >= _BULKY and self._may_splice:
                self._bulky = True
                if self._has_pipe():
                    return self._splice(now)
            if received < _READ and not self.thorough:
                return DRAINED
            budget -= received
        return UNFINISHED

    def stop(self) -> None:
        """Move nothing ever again, and drop what is held."""
        self.done = True
        self.blocked = False
        self._in_hand = None
        if self._pipe is not None:
            self._return_pipe(self._pipe)

    def _has_pipe(self) -> bool:
        if self._pipe is None:
            self._pipe = self._pipes.take()
        return self._pipe is not None

    def _splice(self, now: float) -> int:
        """Move bulk through the pipe."""
        pipe = self._pipe
        assert pipe is not None
        moved = 0
        while moved < _BUDGET:
            try:
                received = splice(self.src, pipe.write, _AT_ONCE, flags=_FLAGS)
            except BlockingIOError:
                self._bulky = moved >= _BULKY
                self._return_pipe(pipe)
                return DRAINED
            except OSError as error:
                self._return_pipe(pipe)
                if (
                    error.errno == errno.EINVAL
                ):  # this kernel cannot splice from this socket: copy from now on
                    self._may_splice = self._bulky = False
                    return UNFINISHED
                raise ReadFailedError(error) from None
            if not received:
                self._return_pipe(pipe)
                return ENDED
            self.pair.received(self.side, received, now)
            self._piped = received
            if not self._empty_pipe(pipe):
                return BLOCKED
            moved += received
        self._return_pipe(pipe)
        return UNFINISHED

    def _empty_hand(self) -> bool:
        """Pass on what is held, and say whether nothing is left of it."""
        if self._pipe is not None:
            return self._empty_pipe(self._pipe)
        assert self._in_hand is not None
        try:
            sent = write(self.dst, self._in_hand)
        except BlockingIOError:
            return False
        except OSError as error:
            raise WriteFailedError(error) from None
        self._in_hand = self._in_hand[sent:] or None
        return self._in_hand is None

    def _empty_pipe(self, pipe: Pipe) -> bool:
        while self._piped:
            try:
                self._piped -= splice(pipe.read, self.dst, self._piped, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError as error:
                raise WriteFailedError(error) from None
        return True

    def _return_pipe(self, pipe: Pipe) -> None:
        self._pipes.give_back(pipe, empty=not self._piped)
        self._pipe, self._piped = None, 0
