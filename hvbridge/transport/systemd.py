"""Listeners whose sockets systemd has bound and passed on: socket activation.

Owns: systemd endpoints; what is accepted is a stream of the socket's own family. Refuses: closing or changing what
systemd set up: who may connect, backlog, buffers and the modes of socket files are its configuration's business.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial

import trio

from hvbridge.endpoint import SystemdEndpoint, VsockEndpoint
from hvbridge.stream import SocketStream
from hvbridge.transport import tcp, unix, vsock
from hvbridge.transport.errors import Cause, DialError, ListenError, listen_cause
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.sockets import AnySocket, Listener, SocketListener
from hvbridge.wording import quote

assert sys.platform == "linux", "systemd is there only"

Sockets = Mapping[str, list[socket.socket]]


class SystemdTransport:
    """Listens on the sockets that ``inherited`` returns, by their names; they are left open."""

    def __init__(self, inherited: Callable[[], Sockets]) -> None:
        self._inherited = inherited

    async def dial(self, endpoint: SystemdEndpoint, options: DialOptions) -> SocketStream:
        """Raise `DialError`: nothing can be reached by such an endpoint."""
        raise DialError(endpoint, Cause.UNAVAILABLE, advice="write the address of the service")

    async def listen(self, endpoint: SystemdEndpoint, options: ListenOptions) -> list[Listener]:
        """Listen on every socket of the name. Raises `ListenError`."""
        inherited = self._inherited()
        if endpoint.name not in inherited:
            raise ListenError(endpoint, Cause.NOT_PASSED, advice=_advice(endpoint.name, inherited))
        listeners: list[Listener] = []
        try:
            listeners.extend(_listener(sock, options) for sock in inherited[endpoint.name])
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise ListenError(endpoint, listen_cause(error), error) from error
        return listeners

    def fault(self, endpoint: SystemdEndpoint, role: str) -> str | None:
        """Return None: which sockets there will be, only the process that systemd starts knows."""
        return None


def _advice(name: str, inherited: Sockets) -> str:
    if not inherited:
        return ""  # the one of the table
    names = " and ".join(quote(other) for other in sorted(inherited))
    return f"it passed {names}; write FileDescriptorName={name} in the .socket unit, or what it passed here"


def _listener(inherited: socket.socket, options: ListenOptions) -> Listener:
    # A duplicate, so that a config that is read again can drop the name and take it up later: systemd passes its
    # sockets once.
    plain = inherited.dup()
    try:
        where, wrap = _family(plain, options)
    except BaseException:
        plain.close()
        raise
    return SocketListener(trio.socket.from_stdlib_socket(plain), where, wrap, plain=plain)


def _family(
    sock: socket.socket, options: ListenOptions
) -> tuple[str, Callable[[AnySocket, object], SocketStream]]:
    """What a socket listens on, and what makes a stream of that family. Raises OSError."""
    address = sock.getsockname()
    match sock.family:
        case socket.AF_INET | socket.AF_INET6:
            tcp.set_options(sock, options.tcp_keepalive)  # accepted sockets inherit them
            return f"tcp://{tcp.address_text(address)}", tcp.accepted
        case socket.AF_UNIX:
            # Abstract names come as bytes, with a zero byte where systemd writes an @.
            path = address if isinstance(address, str) else "@" + address[1:].decode("utf-8", "replace")
            return f"unix://{path}", partial(unix.accepted, f"unix://{path}")
        case vsock.AF_VSOCK:
            return str(VsockEndpoint(*address)), vsock.accepted
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
