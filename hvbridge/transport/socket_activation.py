"""Socket activation: listeners on sockets that systemd has bound and passed (sd_listen_fds(3)).

Accepted connections are streams of the socket's own family. Access, backlog, buffers and the modes of socket files are
set in systemd's configuration, and are never changed here.
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

assert sys.platform == "linux", "systemd exists only there"

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of systemd/sd-daemon.h."""

_UNNAMED = "unknown"
"""The name that sd_listen_fds_with_names(3) gives to a socket without one."""


Sockets = Mapping[str, list[socket.socket]]


class SystemdTransport:
    """Listens on the sockets that ``inherited`` returns, by name; never closes them."""

    def __init__(self, inherited: Callable[[], Sockets]) -> None:
        self._inherited = inherited

    async def dial(self, endpoint: SystemdEndpoint, options: DialOptions) -> SocketStream:
        """Raise `DialError`: these endpoints are only for listening."""
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
        """Return None: the sockets are known only in the process that systemd starts."""
        return None


def _advice(name: str, inherited: Sockets) -> str:
    if not inherited:
        return ""  # use the default advice
    names = " and ".join(quote(other) for other in sorted(inherited))
    return (
        f"it passed {names}; set FileDescriptorName={name} in the .socket unit, or use a name that it passed"
    )


def _listener(inherited: socket.socket, options: ListenOptions) -> Listener:
    # A duplicate, so that a reload can drop the name and use it again later: systemd passes its sockets only once.
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
    """Return the address of a socket, and the function that wraps an accepted socket. Raises OSError."""
    address = sock.getsockname()
    match sock.family:
        case socket.AF_INET | socket.AF_INET6:
            tcp.set_options(sock, options.tcp_keepalive)  # accepted sockets inherit them
            return f"tcp://{tcp.address_text(address)}", tcp.accepted
        case socket.AF_UNIX:
            # Abstract names are bytes that begin with NUL, which systemd writes as @.
            path = address if isinstance(address, str) else "@" + address[1:].decode("utf-8", "replace")
            return f"unix://{path}", partial(unix.accepted, f"unix://{path}")
        case constants.AF_VSOCK:
            return str(VsockEndpoint(*address)), vsock.accepted
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def systemd_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Take over the listening stream sockets that systemd passed to this process, by their FileDescriptorName=.

    The caller closes them. Other descriptors stay open; like these, they are made non-inheritable. The variables are
    unset, so that child processes do not use the descriptors; a second call returns nothing.
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
        except OSError:  # not open, or a FIFO or a file
            continue
        if _listens(sock):
            sockets.setdefault(of_each[index] if index < len(of_each) else _UNNAMED, []).append(sock)
        else:
            sock.detach()
    return sockets


@cache
def inherited_sockets() -> Mapping[str, list[socket.socket]]:
    """Return `systemd_sockets` of this process; taken once, and open until it exits."""
    return systemd_sockets()


def _listens(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
