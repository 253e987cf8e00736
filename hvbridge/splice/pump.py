"""One direction of a splice on Linux: bytes from one descriptor to another, for as long as neither must wait.

Owns: how the bytes move. Messages are copied as they come; bulk goes by splice(2) through a pipe where that is
faster, and else through one large buffer. Refuses: waiting, and what the ends mean.

Between two calls of `Pump.move` a pump holds only what its destination would not take: the rest of one read, or
one pipe. It reads nothing more until that is gone, which is the backpressure.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import errno
import os
import socket
import sys
from typing import Final, Generic, TypeVar

assert sys.platform == "linux"

from os import read, readv, splice, write

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
"""Bytes of a read from which data counts as bulk. Below, its ways cost more than they save."""
_BUDGET = 1024 * 1024
"""Bytes that a pump may move in one turn: some 200 µs, which is how long it keeps all others waiting."""

_COPIED = 512 * 1024
"""Bytes of the largest read of bulk that is copied: the size of the one buffer for it."""
_SPLICED = 1024 * 1024
"""Bytes asked of one splice(2). A pipe counts pages, and a page of socket memory may be larger than 4 KiB."""
_SPLICES_FROM = (socket.AF_INET, socket.AF_INET6)
"""Families whose bulk is spliced. From a Unix socket a copy is twice as fast; AF_VSOCK can only copy."""
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_SEND_BUFFER = 1024 * 1024
"""Bytes of the send buffer of a Unix socket that takes bulk. Unlike TCP's it never grows by itself, and with the
208 KiB of most systems half of the time goes into waking up."""


class Shared:
    """What all pumps of a plane share."""

    __slots__ = ("buffer", "pipes", "unix_send_buffer")

    def __init__(self) -> None:
        self.pipes = PipePool()
        self.buffer = memoryview(bytearray(_COPIED))
        with socket.socket(socket.AF_UNIX) as fresh:
            self.unix_send_buffer = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            """Bytes of a send buffer whose size nobody has chosen."""


class ReadFailedError(Exception):
    """The source failed with ``error``."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class WriteFailedError(Exception):
    """The destination failed with ``error``."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class Pump(Generic[PairT]):
    """Moves what ``side`` of ``pair`` sends from socket ``src`` to socket ``dst``, both non-blocking.

    ``plain`` says that a read which got less than it asked for has taken all there was, and that splice(2) works.
    """

    __slots__ = (
        *(
            "_bulky",
            "_dst",
            "_in_hand",
            "_pipe",
            "_piped",
            "_prepared",
            "_reach",
            "_shared",
            "_splices",
            "_src",
        ),
        *("armed", "blocked", "done", "dst", "pair", "side", "src", "thorough"),
    )

    def __init__(
        self, pair: PairT, side: int, src: socket.socket, dst: socket.socket, plain: bool, shared: Shared
    ) -> None:
        self.pair = pair
        self.side = side
        self.src = src.fileno()
        self.dst = dst.fileno()
        self.thorough = not plain
        """Whether a read that got less than it asked for leaves open whether there is more."""
        self._src = src
        self._dst = dst
        self._shared = shared
        self._bulky = False
        self._prepared = False
        self._reach = _READ
        self._splices = plain
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
        if self._in_hand or self._piped:
            self.pair.active = now  # a destination that slowly takes what is held is not idle
            if not self._empty_hand():
                return BLOCKED
        if self._bulky:
            return self._move_bulk(now)
        # A small message, the most common case by far, is moved right here, for the sake of its cost.
        moved = 0
        while moved < _BUDGET:
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
            if received >= _BULKY:
                self._bulky = True
                return self._move_bulk(now)
            if received < _READ and not self.thorough:
                return DRAINED
            moved += received
        return UNFINISHED

    def stop(self) -> None:
        """Move nothing ever again, and drop what is held."""
        self.done = True
        self.blocked = False
        self._in_hand = None
        if self._pipe is not None:
            self._return_pipe(self._pipe)

    # Bulk.

    def _move_bulk(self, now: float) -> int:
        if not self._prepared:
            self._prepare()
        if self._splices:
            if self._pipe is None:
                self._pipe = self._shared.pipes.take()
            if self._pipe is not None:
                return self._splice(self._pipe, now)
        return self._copy(now)

    def _prepare(self) -> None:
        """Choose how to move bulk, when there first is some."""
        self._prepared = True
        self._splices = self._splices and self._src.family in _SPLICES_FROM
        if self._dst.family == socket.AF_UNIX:
            size = self._dst.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            if size == self._shared.unix_send_buffer:
                self._dst.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def _copy(self, now: float) -> int:
        moved = 0
        while moved < _BUDGET:
            asked = self._reach
            try:
                received = readv(self.src, (self._shared.buffer[:asked],))
            except BlockingIOError:
                self._bulky = moved >= _BULKY
                return DRAINED
            except OSError as error:
                raise ReadFailedError(error) from None
            if not received:
                return ENDED
            self.pair.received(self.side, received, now)
            if not self._write(self._shared.buffer[:received]):
                # Read no more at once than is taken at once: what is not taken must be held.
                self._reach = max(_READ, received - len(self._in_hand or b""))
                return BLOCKED
            moved += received
            if received < asked and not self.thorough:
                self._bulky = moved >= _BULKY
                return DRAINED
            self._reach = min(2 * asked, _COPIED)
        return UNFINISHED

    def _splice(self, pipe: Pipe, now: float) -> int:
        moved = 0
        while moved < _BUDGET:
            try:
                received = splice(self.src, pipe.write, _SPLICED, flags=_FLAGS)
            except BlockingIOError:
                self._bulky = moved >= _BULKY
                self._return_pipe(pipe)
                return DRAINED
            except OSError as error:
                self._return_pipe(pipe)
                if error.errno == errno.EINVAL:  # as where a sandbox's kernel cannot splice
                    self._splices = False
                    return self._copy(now)
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

    # What the destination would not take.

    def _empty_hand(self) -> bool:
        """Pass on what is held, and say whether nothing is left of it."""
        if self._pipe is not None:
            return self._empty_pipe(self._pipe)
        data, self._in_hand = self._in_hand, None
        return data is None or self._write(memoryview(data))

    def _write(self, data: memoryview) -> bool:
        """Pass on ``data``, keep what is left of it, and say whether nothing is."""
        try:
            sent = write(self.dst, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise WriteFailedError(error) from None
        if sent == len(data):
            return True
        self._in_hand = bytes(data[sent:])
        return False

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
        self._shared.pipes.give_back(pipe, empty=not self._piped)
        self._pipe, self._piped = None, 0
