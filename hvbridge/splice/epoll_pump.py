"""Moves the bytes of one direction on Linux, until the source is drained or the destination blocks.

Messages are copied as they come; a large read starts a `BulkPump`. A pump that the destination blocks reads no more
until that has taken what was read before, which is the backpressure.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import sys
from typing import Final

assert sys.platform == "linux"

from os import read, write

from hvbridge.splice.bulk_pump import BULK_THRESHOLD, BulkPump
from hvbridge.splice.direction import BUDGET, ConnectionT, Direction, Progress, Shared
from hvbridge.transport.stream import SocketStream

READ_SIZE = 64 * 1024
"""Bytes asked of one read."""

_DRAINED: Final = Progress.DRAINED  # a member of an enum takes longer to look up


class Pump(Direction[ConnectionT]):
    """Moves the data of one direction."""

    __slots__ = ("_bulk", "blocked", "done")

    def __init__(
        self, connection: ConnectionT, side: int, source: SocketStream, sink: SocketStream, shared: Shared
    ) -> None:
        super().__init__(connection, side, source, sink, shared)
        self._bulk: BulkPump | None = None
        self.blocked = False
        """True while the destination has not taken all that was read. `move` again once it has room."""
        self.done = False
        """True after `stop`."""

    def move(self, now: float) -> Progress:
        """Move bytes until a side would block, ends or fails, or until the budget is exhausted."""
        if self._bulk is not None or self.done:
            return self._move_bulk(now)
        moved = 0
        while moved < BUDGET:
            try:
                data = read(self.src, READ_SIZE)
            except BlockingIOError:
                return _DRAINED
            except OSError as error:
                self.error = error
                return Progress.READ_ERROR
            if not data:
                return Progress.EOF
            received = len(data)
            self.connection.received(self.side, received, now)
            try:
                sent = write(self.dst, data)  # without a function of its own: a call costs 1 % of a message
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.error = error
                return Progress.WRITE_ERROR
            if sent < received or received >= BULK_THRESHOLD:
                self._bulk = BulkPump(self, data[sent:])
                if sent == received:
                    return self._move_bulk(now)
                self.blocked = True
                return Progress.BLOCKED
            if not self.read_until_eagain:
                return _DRAINED
            moved += received
        return Progress.UNFINISHED

    def stop(self) -> None:
        """Move nothing ever again, and drop what the destination has not taken."""
        self.done = True
        self.blocked = False
        if self._bulk is not None:
            self._bulk.drop()
            self._bulk = None

    def _move_bulk(self, now: float) -> Progress:
        bulk = self._bulk
        if bulk is None:
            return _DRAINED
        progress = bulk.move(now)
        self.blocked = progress is Progress.BLOCKED
        if not bulk.active:
            self._bulk = None
        return progress
