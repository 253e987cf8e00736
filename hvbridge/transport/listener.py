"""Listeners over sockets of every family, and the classification of accept errors."""

import errno
import os
import socket
from abc import abstractmethod
from collections.abc import Callable

import trio

from hvbridge.transport.options import ListenOptions
from hvbridge.transport.stream import SocketStream

# Errors of accept() for a connection that was closed or forbidden before it was accepted; the next may succeed.
# Resource exhaustion (EMFILE, ENOBUFS …) is not among them: the accept loop waits until it passes.
_PEER_ERRORS = frozenset(
    {errno.EPERM, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENETUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ECONNRESET, errno.ETIMEDOUT}
    | {getattr(errno, "ENONET", errno.EPERM)}
    | {10050, 10053, 10054, 10060}  # Winsock's: WSAENETDOWN, WSAECONNABORTED, WSAECONNRESET, WSAETIMEDOUT
)


AnySocket = socket.socket | trio.socket.SocketType
"""A non-blocking socket, or a trio socket; both have the same non-blocking calls."""


class Listener(trio.abc.Listener[SocketStream]):
    """Listens on the address ``where``. The owner closes it.

    Every method raises `trio.ClosedResourceError` once closed, and OSError if the machine has run out of a resource;
    failures of a peer are skipped.
    """

    where: str

    @abstractmethod
    async def wait_acceptable(self) -> None:
        """Wait until `accept_nowait` may return a connection."""

    @abstractmethod
    def accept_nowait(self, at_most: int) -> list[SocketStream]:
        """Accept waiting connections, possibly none; the caller closes the streams."""

    @abstractmethod
    def close(self) -> None:
        """`aclose` without a checkpoint. Does nothing if already closed."""

    async def accept(self) -> SocketStream:
        """Wait for a connection and return its stream, which the caller closes."""
        while True:
            await self.wait_acceptable()
            for stream in self.accept_nowait(1):
                return stream

    async def aclose(self) -> None:
        """Stop listening; the kernel resets the connections in its backlog."""
        self.close()
        await trio.lowlevel.checkpoint()


class SocketListener(Listener):
    """Owns a bound, listening socket.

    ``plain`` is the stdlib socket of ``sock``, from which connections are accepted in batches; without it (a socket
    from a custom factory), they are accepted one by one.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        where: str,
        wrap: Callable[[AnySocket, object], SocketStream],
        on_close: Callable[[], None] | None = None,
        plain: socket.socket | None = None,
    ) -> None:
        self.socket = sock
        self.where = where
        self._wrap = wrap
        self._on_close = on_close
        self._plain = plain
        if plain is not None:
            # As socket.accept, but without converting these numbers to enums for each connection, which takes as long.
            self._kind = int(plain.family), int(plain.type), plain.proto
            self._accept: Callable[[], tuple[int, object]] = plain._accept  # type: ignore[attr-defined]  # noqa: SLF001
        self._waiting: SocketStream | None = None
        self._closed = False

    async def wait_acceptable(self) -> None:
        """As `Listener.wait_acceptable`."""
        if self._closed:
            raise trio.ClosedResourceError
        if self._plain is not None:
            await trio.lowlevel.wait_readable(self._plain)
        elif self._waiting is None:
            self._waiting = await self._accept_one()

    def accept_nowait(self, at_most: int) -> list[SocketStream]:
        """As `Listener.accept_nowait`."""
        if self._plain is None:
            streams = [self._waiting] if self._waiting is not None else []
            self._waiting = None
            return streams
        streams = []
        family, kind, protocol = self._kind
        while len(streams) < at_most:
            try:
                descriptor, address = self._accept()
            except BlockingIOError:
                break
            except OSError as error:
                if self._closed:
                    raise trio.ClosedResourceError from None
                if error.errno in _PEER_ERRORS:
                    continue
                if streams:  # the next call will raise the error again
                    break
                raise
            sock = socket.socket(family, kind, protocol, descriptor)
            sock.setblocking(False)
            streams.append(self._wrap(sock, address))
        return streams

    async def _accept_one(self) -> SocketStream:
        while True:
            try:
                sock, address = await self.socket.accept()
            except OSError as error:
                if self._closed:
                    raise trio.ClosedResourceError from None
                if error.errno in _PEER_ERRORS:
                    continue
                raise
            return self._wrap(sock, address)

    def close(self) -> None:
        """As `Listener.close`."""
        if self._closed:
            return
        self._closed = True
        if self._on_close is not None:
            self._on_close()
        if self._waiting is not None:
            self._waiting.abort()
        self.socket.close()


async def connect(sock: socket.socket, address: tuple[str | int, int]) -> None:
    """Make ``sock`` non-blocking and connect it to an address that needs no lookup. Raises OSError.

    The caller closes the socket, also after an error. trio's own connect first checks whether the address is a name,
    which takes longer than all of this.
    """
    sock.setblocking(False)
    try:
        sock.connect(address)
    except BlockingIOError:
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


def set_buffers(sock: AnySocket, options: ListenOptions) -> None:
    """Set the buffers of ``sock``; call this before listen(), so that accepted sockets inherit them.

    hv_sock derives the size of its rings from the listener's buffers, and TCP its window scale.
    """
    if options.buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.buffer)
