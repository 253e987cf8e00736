"""The emulator's carrier over Unix-domain sockets.

Unix sockets cannot distinguish a reset from a clean end, so the dialer sends, with the id of its partition, the
descriptor of a two-byte file that both ends share. An end that closes cleanly first writes its byte; EOF without that
byte is a reset, including when a process is killed. The data of the connection is unchanged, so that any splicer can
move it.
"""

import array
import errno
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from hvbridge.transport import unix
from hvbridge.transport.emulator.handshake import LEFT, receive_identity
from hvbridge.transport.listener import AnySocket, Listener
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.stream import HandshakeError, SocketStream

assert sys.platform != "win32", "the carrier there is `emulator.tcp`"

_DIALER, _LISTENER = 0, 1
"""The index of each end's byte in the shared file."""
_CLEAN = b"\1"
_HEADER_BYTES = 16


async def connect(path: Path, partition: UUID) -> SocketStream | None:
    """Connect and send the handshake; None if nothing listens at ``path``. Raises OSError."""
    try:
        plain = await unix.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    ends = _shared_file()
    try:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ends]))
        plain.sendmsg([partition.bytes], [rights])  # a new socket has buffer space
    except BaseException:
        os.close(ends)
        plain.close()
        raise
    return _EmulatorStream(plain, _DIALER, ends)


async def listen(
    path: Path, where: str, options: ListenOptions, name_peer: Callable[[UUID], str]
) -> Listener:
    """Listen at ``path``. Raises OSError."""
    plain = unix.bind(str(path), options)
    return unix.listener(plain, str(path), where, lambda sock, _: _AcceptedStream(sock, name_peer))


class _EmulatorStream(SocketStream):
    """A Unix stream that detects a reset by the byte that its peer did not write."""

    close_ends_data = False

    def __init__(self, sock: AnySocket, me: int, ends: int = -1) -> None:
        super().__init__(sock)
        self._me = me
        self._ends = ends

    def shut_down_writing(self) -> None:
        if self._ends != -1:
            os.pwrite(self._ends, _CLEAN, self._me)
        super().shut_down_writing()

    def read_ended(self) -> None:
        if self._ends != -1 and os.pread(self._ends, 1, 1 - self._me) != _CLEAN:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def close(self) -> None:
        super().close()
        if self._ends != -1:
            os.close(self._ends)
            self._ends = -1


class _AcceptedStream(_EmulatorStream):
    """The listener's end, which identifies the dialer by a handshake."""

    def __init__(self, sock: AnySocket, name_peer: Callable[[UUID], str]) -> None:
        super().__init__(sock, _LISTENER)
        self._name_peer = name_peer

    async def do_handshake(self) -> None:
        assert self.plain is not None
        await receive_identity(self.plain, self._receive_header)

    def _receive_header(self) -> None:
        assert self.plain is not None
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        header, rights, _, _ = self.plain.recvmsg(_HEADER_BYTES, room)
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._ends = array.array("i", data)[0]
        if len(header) != _HEADER_BYTES or self._ends == -1:
            raise HandshakeError(LEFT)
        self.client_id = UUID(bytes=header)
        self.peer = self._name_peer(self.client_id)


def _shared_file() -> int:
    """An unnamed file of two zero bytes."""
    if sys.platform == "linux":
        ends = os.memfd_create("hvbridge-ends")
    else:
        with tempfile.TemporaryFile() as file:
            ends = os.dup(file.fileno())
    os.ftruncate(ends, 2)
    return ends
