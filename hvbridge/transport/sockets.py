"""What the socket transports share: binding a listener, accepting from it.

Owns: listeners, and which accept errors are a peer's business.
Refuses: knowing any address family's addresses, and running an accept loop (`trio.serve_listeners` does).
"""

import errno
import socket
from collections.abc import Callable

import trio

from hvbridge.stream import SocketStream
from hvbridge.transport.options import ListenOptions

# accept() reports these for a connection that was gone, or forbidden, before it was taken; the next may be
# fine. Resource exhaustion (EMFILE, ENOBUFS …) is not among them: trio.serve_listeners waits and goes on.
_PEERS_BUSINESS = frozenset(
    {errno.EPERM, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENETUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ECONNRESET, errno.ETIMEDOUT}
    | {getattr(errno, "ENONET", errno.EPERM)}
    | {10050, 10053, 10054, 10060}  # Winsock's: WSAENETDOWN, WSAECONNABORTED, WSAECONNRESET, WSAETIMEDOUT
)


HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a client to say who it is, where its transport asks; it does so at once or never."""


class HandshakeError(Exception):
    """A client did not say who it is in the way its transport demands; the message says what it did."""


class Listener(trio.abc.Listener[SocketStream]):
    """A bound, listening socket. ``where`` says what it listens on; closing it closes the socket.

    `accept` raises `trio.ClosedResourceError` once closed, and OSError when the machine is out of
    something; a peer's failure it passes over.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        where: str,
        wrap: Callable[[trio.socket.SocketType, object], SocketStream],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.socket = sock
        self.where = where
        self._wrap = wrap
        self._on_close = on_close
        self._closed = False

    async def accept(self) -> SocketStream:
        """Wait for a connection and return its stream, which the caller closes."""
        while True:
            try:
                sock, address = await self.socket.accept()
            except OSError as error:
                if self._closed:
                    raise trio.ClosedResourceError from None
                if error.errno in _PEERS_BUSINESS:
                    continue
                raise
            return self._wrap(sock, address)

    async def aclose(self) -> None:
        """Stop listening; connections that the kernel held in the backlog are reset by it."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """`aclose` without a checkpoint, for cleaning up after a failed start."""
        if self._closed:
            return
        self._closed = True
        if self._on_close is not None:
            self._on_close()
        self.socket.close()


def set_buffers(sock: trio.socket.SocketType, options: ListenOptions) -> None:
    """Set the buffers of ``sock``, which must come before listen() to reach accepted sockets.

    hv_sock sizes its rings by the listener's buffers, and TCP its window scale.
    """
    if options.buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.buffer)
