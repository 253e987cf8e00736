"""One direction of a splice on Linux: bytes from one descriptor to another, for as long as neither must wait.

Owns: moving messages, which are copied as they come; large reads it hands on (`bulk`). Refuses: waiting, and
what the ends mean.

Between two calls of `Pump.move` a pump holds only what its destination would not take: the rest of one read, or
one pipe. It reads nothing more until that is gone, which is the backpressure.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import sys
from typing import Generic, TypeVar

assert sys.platform == "linux"

from os import read, write

from hvbridge.splice.bulk_pump import (
    BLOCKED,
    BUDGET,
    DRAINED,
    ENDED,
    FROM,
    READ_FAILED,
    UNFINISHED,
    WRITE_FAILED,
    Bulk,
    Shared,
)
from hvbridge.splice.close_rules import CLIENT, Pair
from hvbridge.transport.stream import SocketStream

PairT = TypeVar("PairT", bound=Pair)

_READ = 64 * 1024
"""Bytes of a read."""
_MESSAGE = 4 * 1024
"""Bytes of a read up to which it counts as a message, to which an answer is soon to be expected."""


class Pump(Generic[PairT]):
    """Moves what ``side`` of ``pair`` sends from ``source`` to ``sink``, both non-blocking sockets."""

    __slots__ = (
        *("_shared", "_splices", "armed", "blocked", "bulk", "done", "dst", "error", "muted", "pair", "side"),
        *("sink", "source", "src", "thorough"),
    )
    error: OSError
    """What a read or a write failed with, once `move` has said that it did."""

    def __init__(
        self,
        pair: PairT,
        side: int,
        source: SocketStream,
        sink: SocketStream,
        src: int,
        dst: int,
        shared: Shared,
    ) -> None:
        self.pair = pair
        self.side = side
        self.source = source
        self.sink = sink
        self.src = src
        self.dst = dst
        """The descriptors of the two."""
        self._splices = source.splices_plainly and sink.splices_plainly
        self.thorough = not self._splices
        """Whether a read that got less than it asked for leaves open whether there is more."""
        self._shared = shared
        self.bulk: Bulk | None = None
        # The plane's own notes:
        self.blocked = False
        self.armed = False
        self.muted = False
        self.done = False

    def move(self, now: float) -> int:
        """Move what can be moved without waiting, and say why no more. `DRAINED` is 0.

        A read that failed is told after everything that came before it has been passed on. A pump that is blocked
        moves nothing, and says so.
        """
        if self.bulk is not None or self.done:
            return self._move_on(now)
        # A small message, the most common case by far, is moved right here, for the sake of its cost.
        moved = 0
        while moved < BUDGET:
            try:
                data = read(self.src, _READ)
            except BlockingIOError:
                return DRAINED
            except OSError as error:
                self.error = error
                return READ_FAILED
            if not data:
                return ENDED
            received = len(data)
            pair = self.pair
            pair.active = now
            if self.side == CLIENT:
                pair.transfer.client_to_upstream += received
            else:
                pair.transfer.upstream_to_client += received
            try:
                sent = write(self.dst, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.error = error
                return WRITE_FAILED
            if received > _MESSAGE:
                self._shared.streams = True
            if sent < received or received >= FROM:
                assert self.sink.plain is not None
                self.bulk = Bulk(self.src, self.sink.plain, self._splices, self._shared, data[sent:])
                return BLOCKED if sent < received else self._move_on(now)
            if not self.thorough:
                return DRAINED  # a short read
            moved += received
        return UNFINISHED

    def stop(self) -> None:
        """Move nothing ever again, and drop what is held."""
        self.done = True
        self.blocked = False
        if self.bulk is not None:
            self.bulk.drop()
            self.bulk = None

    def _move_on(self, now: float) -> int:
        """Go on with the bulk, unless it is blocked."""
        bulk = self.bulk
        if self.blocked:
            return BLOCKED
        if bulk is None:
            return DRAINED
        state = bulk.move(self.pair, self.side, self.thorough, now)
        if bulk.error is not None:
            self.error = bulk.error
        if not bulk.goes_on:
            self._splices = bulk.splices
            self.bulk = None
        return state
