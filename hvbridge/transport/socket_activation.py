"""Socket activation: listeners on sockets that systemd has bound and passed on (sd_listen_fds(3)).

What is accepted is a stream of the socket's own family. Refuses to close or change what systemd set up: who may
connect, backlog, buffers and the modes of socket files are its configuration's business.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from functools import cache, partial

import trio

from hvbridge.address.endpoint import SystemdEndpoint, VsockEndpoint
from hvbridge.hyperv import constants
from hvbridge.text import Problem, quote
from hvbridge.transport import tcp, unix, vsock
from hvbridge.transport.errors import Cause, DialError, ListenError, listen_cause
from hvbridge.transport.listener import AnySocket, Listener, SocketListener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

assert sys.platform == "linux", "systemd is there only"

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of systemd/sd-daemon.h."""

_UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket to which no name was passed."""


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

    def fault(self, endpoint: SystemdEndpoint, role: str) -> Problem | None:
        """Return None: which sockets there will be, only the process that systemd starts knows."""
        return None


def _advice(name: str, inherited: Sockets) -> str:
    if not inherited:
        return ""  # the one of the table
    names = " and ".join(quote(other) for other in sorted(inherited))
    return (
        f"it passed {names}; set FileDescriptorName={name} in the .socket unit, or use a name that it passed"
    )


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
        case constants.AF_VSOCK:
            return str(VsockEndpoint(*address)), vsock.accepted
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def systemd_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Take over the listening stream sockets that systemd passed to this process, by their FileDescriptorName=.

    The caller closes them. Other descriptors are left alone, but kept from child processes as these are. The variables
    are unset, so that no child takes the descriptors for its own, and a second call finds nothing.
    """
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not _is_decimal(count):
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    of_each = names.split(":") if names else []
    for index in range(int(count)):
        try:
            os.set_inheritable(_FIRST_DESCRIPTOR + index, False)
            sock = socket.socket(fileno=_FIRST_DESCRIPTOR + index)
        except OSError:  # none is open there, or it is a FIFO or a file
            continue
        if _listens(sock):
            sockets.setdefault(of_each[index] if index < len(of_each) else _UNNAMED, []).append(sock)
        else:
            sock.detach()
    return sockets


@cache
def inherited_sockets() -> Mapping[str, list[socket.socket]]:
    """`systemd_sockets` of this process, taken once and open for as long as it lives."""
    return systemd_sockets()


def _listens(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
