"""The emulator's carrier over loopback TCP, for platforms whose Python has no Unix-domain sockets.

A listener writes its port and a secret to a file in the emulator's private directory. The dialer sends the secret and
the id of its partition, so that knowing the loopback port is not enough to connect. TCP itself signals resets.
"""

import errno
import hmac
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import trio

from hvbridge.transport.emulator.handshake import LEFT, receive_identity
from hvbridge.transport.listener import AnySocket, Listener, SocketListener, set_buffers
from hvbridge.transport.listener import connect as connect_socket
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.stream import HandshakeError, SocketStream

_SECRET_BYTES = 16
_HEADER_BYTES = _SECRET_BYTES + 16


async def connect(path: Path, partition: UUID) -> SocketStream | None:
    """Connect and send the handshake; None if nothing listens at ``path``. Raises OSError."""
    try:
        port, secret = _read(path)
    except (FileNotFoundError, ValueError):
        return None
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        await connect_socket(plain, ("127.0.0.1", port))
        plain.send(secret + partition.bytes)  # a new socket has buffer space
    except ConnectionRefusedError:
        plain.close()
        return None
    except BaseException:
        plain.close()
        raise
    return SocketStream(plain)


async def listen(
    path: Path, where: str, options: ListenOptions, name_peer: Callable[[UUID], str]
) -> Listener:
    """Listen at ``path``. Raises OSError."""
    if await _is_alive(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock = trio.socket.from_stdlib_socket(plain)
    try:
        set_buffers(sock, options)
        await sock.bind(("127.0.0.1", 0))
        sock.listen(options.backlog)
        secret = secrets.token_bytes(_SECRET_BYTES)
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{sock.getsockname()[1]} {secret.hex()}")
        fresh.replace(path)
    except BaseException:
        sock.close()
        raise
    return SocketListener(
        sock, where, lambda sock, _: _AcceptedStream(sock, secret, name_peer), lambda: _remove(path), plain
    )


class _AcceptedStream(SocketStream):
    """The listener's end, which identifies the dialer by a handshake."""

    def __init__(self, sock: AnySocket, secret: bytes, name_peer: Callable[[UUID], str]) -> None:
        super().__init__(sock)
        self._secret = secret
        self._name_peer = name_peer
        self._header = b""

    async def do_handshake(self) -> None:
        assert self.plain is not None
        await receive_identity(self.plain, self._receive_header)
        if not hmac.compare_digest(self._header[:_SECRET_BYTES], self._secret):
            raise HandshakeError("it does not know this listener's secret")
        self.client_id = UUID(bytes=self._header[_SECRET_BYTES:])
        self.peer = self._name_peer(self.client_id)

    def _receive_header(self) -> None:
        assert self.plain is not None
        while len(self._header) < _HEADER_BYTES:
            received = self.plain.recv(_HEADER_BYTES - len(self._header))
            if not received:
                raise HandshakeError(LEFT)
            self._header += received


def _read(path: Path) -> tuple[int, bytes]:
    port, secret = path.read_text().split()
    return int(port), bytes.fromhex(secret)


async def _is_alive(path: Path) -> bool:
    """Whether the listener that wrote ``path`` is still listening."""
    try:
        port, _ = _read(path)
    except (FileNotFoundError, ValueError):
        return False
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
