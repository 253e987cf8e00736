"""One direction of a connection on Linux, and what its two ways to move bytes have in common."""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import socket
import sys
from enum import IntEnum
from typing import Final, Generic, TypeVar

assert sys.platform == "linux"

from hvbridge.splice.busy_poll import BusyPoll
from hvbridge.splice.close_rules import CloseState
from hvbridge.splice.pipe_pool import PipePool
from hvbridge.transport.stream import SocketStream

BUDGET: Final = 1024 * 1024
"""Bytes that a direction may move in one turn: about 200 µs, in which all others wait."""

BUFFER_SIZE: Final = 256 * 1024
"""Bytes of a bulk read that is copied. With 128 KiB it took 1.15 times the CPU; 512 KiB gained nothing."""


class Progress(IntEnum):
    """Why a move of bytes stopped."""

    DRAINED = 0
    """The source has nothing more for now. It is 0 so that the most common case is cheap to test."""
    BLOCKED = 1
    """The destination takes no more for now."""
    UNFINISHED = 2
    """Budget exhausted; call again next turn."""
    EOF = 3
    """The source has ended, and everything before its EOF has been passed on."""
    READ_ERROR = 4
    """Reading failed, as ``error`` says. Everything received before has been passed on."""
    WRITE_ERROR = 5
    """Writing failed, as ``error`` says."""


class Shared:
    """What all directions of a splicer share."""

    __slots__ = ("buffer", "busy_poll", "pipes", "unix_send_buffer")

    def __init__(self) -> None:
        self.busy_poll = BusyPoll()
        self.pipes = PipePool()
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        with socket.socket(socket.AF_UNIX) as fresh:
            self.unix_send_buffer = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            """The system's default size of a Unix socket's send buffer."""


ConnectionT = TypeVar("ConnectionT", bound=CloseState)


class Direction(Generic[ConnectionT]):
    """The data that ``side`` of ``connection`` sends: from ``source`` to ``sink``, both non-blocking sockets."""

    __slots__ = (
        "connection",
        "dst",
        "error",
        "read_until_eagain",
        "shared",
        "side",
        "sink",
        "source",
        "splices",
        "src",
    )
    error: OSError
    """What a read or a write failed with."""

    def __init__(
        self, connection: ConnectionT, side: int, source: SocketStream, sink: SocketStream, shared: Shared
    ) -> None:
        assert source.plain is not None
        assert sink.plain is not None
        self.connection = connection
        self.side = side
        self.source = source
        self.sink = sink
        self.src = source.plain.fileno()
        self.dst = sink.plain.fileno()
        self.shared = shared
        self.splices = source.splices_plainly and sink.splices_plainly
        """True until splice(2) turns out not to work."""
        self.read_until_eagain = not self.splices
        """True if a short read does not imply EAGAIN."""
