"""TCP endpoints: a name is resolved at each dial (with trio's happy eyeballs); a listener binds all its addresses."""

import errno
import ipaddress
import math
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

import trio

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.text import Problem
from hvbridge.transport.errors import Cause, DialError, ListenError, dial_cause, listen_cause
from hvbridge.transport.listener import AnySocket, Listener, SocketListener, connect, set_buffers
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

_KEEPALIVE_IDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
"""The option for the time before the first probe. macOS has another name for it; Windows has it since 10 1709."""
_BORN_NON_BLOCKING = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))


def connect_nowait(endpoint: TcpEndpoint, options: DialOptions) -> SocketStream | None:
    """As `hvbridge.transport.network.Network.connector_nowait`: on loopback, only a full backlog makes it wait.

    On Linux, a loopback connect is in progress when the call returns, and complete when it is repeated.
    """
    family = _linux_loopback_family(endpoint.host)
    if family is None:
        return None
    try:
        plain = socket.socket(family, _BORN_NON_BLOCKING)
        try:
            address = (endpoint.host, endpoint.port)
            code = plain.connect_ex(address)
            if code == errno.EINPROGRESS:
                code = plain.connect_ex(address)
            if code == errno.EALREADY:
                plain.close()
                return None
            if code:
                raise OSError(code, os.strerror(code))
            set_options(plain, options.tcp_keepalive)
        except BaseException:
            plain.close()
            raise
    except OSError as error:
        raise DialError(endpoint, dial_cause(endpoint, error), error) from error
    return SocketStream(plain)


async def dial(endpoint: TcpEndpoint, options: DialOptions) -> SocketStream:
    """Connect, and return the stream, which the caller closes. Raises `DialError`."""
    try:
        family = _literal_family(endpoint.host)
        if family is None:
            found = (await trio.open_tcp_stream(endpoint.host, endpoint.port)).socket
            plain = socket.socket(fileno=found.detach())
            plain.setblocking(False)
        else:
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                await connect(plain, (endpoint.host, endpoint.port))
            except BaseException:
                plain.close()
                raise
        set_options(plain, options.tcp_keepalive)
        return SocketStream(plain)
    except socket.gaierror as error:
        raise DialError(endpoint, Cause.NAME_UNKNOWN, error) from error
    except OSError as error:
        error = _first_failure(error)
        raise DialError(endpoint, dial_cause(endpoint, error), error) from error


async def listen(endpoint: TcpEndpoint, options: ListenOptions) -> list[Listener]:
    """Bind every address that the host resolves to, or none. Raises `ListenError`."""
    listeners: list[Listener] = []
    try:
        found = await trio.socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        _check_loopback(endpoint, [str(address[0]) for *_, address in found])
        port = endpoint.port
        for family, kind, protocol, _, address in found:
            plain = socket.socket(family, kind, protocol)
            sock = trio.socket.from_stdlib_socket(plain)
            bound = SocketListener(sock, str(endpoint), accepted, plain=plain)
            listeners.append(bound)
            if sys.platform == "win32":
                # On Windows, SO_REUSEADDR would let another program take over the port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            set_buffers(sock, options)
            set_options(sock, options.tcp_keepalive)  # accepted sockets inherit them
            # If the system picks the port, use the same one for all addresses of a name.
            await sock.bind((address[0], port, *address[2:]))
            sock.listen(options.backlog)
            port = sock.getsockname()[1]
            bound.where = f"tcp://{address_text(sock.getsockname())}"
    except OSError as error:
        for listener in listeners:
            listener.close()
        cause = Cause.NAME_UNKNOWN if isinstance(error, socket.gaierror) else listen_cause(error)
        raise ListenError(endpoint, cause, error) from error
    return listeners


def _check_loopback(endpoint: TcpEndpoint, addresses: Iterable[str]) -> None:
    """Raise `ListenError` where localhost is, by a hosts file, an address that others can reach."""
    for address in addresses:
        if endpoint.host == "localhost" and not ipaddress.ip_address(address).is_loopback:
            problem = Problem(
                f"localhost resolves to {address} on this machine",
                "write 127.0.0.1 or [::1], or fix the hosts file",
            )
            raise ListenError(endpoint, Cause.EXPOSED, problem=problem)


def fault(endpoint: TcpEndpoint, role: str) -> Problem | None:
    """Return None: every endpoint that parses can be used."""
    return None


def address_text(address: tuple[object, ...]) -> str:
    """A socket address as ``127.0.0.1:22`` or ``[::1]:22``."""
    return f"[{address[0]}]:{address[1]}" if len(address) > 2 else f"{address[0]}:{address[1]}"


def set_options(sock: AnySocket, keepalive: float) -> None:
    """Send small writes at once, and probe a peer that has been silent for ``keepalive`` seconds.

    A peer that has vanished (suspended, unplugged) is detected after that time and about ten probes, while an idle
    connection to a live peer may last forever. `math.inf` turns the probes off.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if math.isinf(keepalive):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if _KEEPALIVE_IDLE is not None:
        with suppress(OSError):  # without the option, the system's default applies
            sock.setsockopt(socket.IPPROTO_TCP, _KEEPALIVE_IDLE, max(1, round(keepalive)))


def accepted(sock: AnySocket, address: object) -> SocketStream:
    """Wrap an accepted client socket in a stream."""
    stream = SocketStream(sock)
    stream.peer = address_text(address)  # type: ignore[arg-type]
    stream.client_id = address[0]  # type: ignore[index]
    return stream


@lru_cache
def _literal_family(host: str) -> socket.AddressFamily | None:
    """The family of an IP address; None for a name or an address with a scope."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    if "%" in host:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


@lru_cache
def _linux_loopback_family(host: str) -> int | None:
    """The family of a loopback address as an int; None for other addresses, and on other systems."""
    family = _literal_family(host)
    if sys.platform != "linux" or family is None or not ipaddress.ip_address(host).is_loopback:
        return None
    return int(family)


def _first_failure(error: OSError) -> OSError:
    """The first system error, if trio reports several attempts at once."""
    if isinstance(error.__cause__, ExceptionGroup):
        for attempt in error.__cause__.exceptions:
            if isinstance(attempt, OSError):
                return attempt
    return error
