"""Unix endpoints, on systems that have Unix-domain sockets.

A socket file is private to its owner, and removed with its listener. Nothing but a dead socket is ever replaced.
"""

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from hvbridge.address.endpoint import UnixEndpoint
from hvbridge.text import Problem
from hvbridge.transport.errors import DialError, ListenError, dial_cause, listen_cause
from hvbridge.transport.listener import AnySocket, Listener, SocketListener, set_buffers
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

assert sys.platform != "win32", "CPython has no AF_UNIX there"

_BORN_NON_BLOCKING = sys.platform == "linux"
_KIND = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK) if sys.platform == "linux" else socket.SOCK_STREAM
"""Creating the socket non-blocking saves a system call; precomputed, because an enum's ``|`` is even slower."""

_FIRST_RETRY = 0.005
_LAST_RETRY = 0.1
"""Seconds between attempts while the listener's backlog is full; doubled from the first to the last."""


def connect_nowait(endpoint: UnixEndpoint, options: DialOptions) -> SocketStream | None:
    """As `hvbridge.transport.network.Network.connector_nowait`: only a full backlog makes it wait."""
    try:
        sock = _connect(endpoint.path)
    except OSError as error:
        raise DialError(endpoint, dial_cause(endpoint, error), error) from error
    return None if sock is None else SocketStream(sock)


async def dial(endpoint: UnixEndpoint, options: DialOptions) -> SocketStream:
    """Connect, and return the stream, which the caller closes. Raises `DialError`."""
    try:
        return SocketStream(await connect(endpoint.path))
    except OSError as error:
        raise DialError(endpoint, dial_cause(endpoint, error), error) from error


async def connect(path: str) -> socket.socket:
    """Connect a non-blocking socket to ``path``; waits while the listener's backlog is full. Raises OSError."""
    delay = _FIRST_RETRY
    while True:
        sock = _connect(path)
        if sock is not None:
            return sock
        await trio.sleep(delay)
        delay = min(2 * delay, _LAST_RETRY)


def _connect(path: str) -> socket.socket | None:
    """Connect; return None if the listener's backlog is full.

    In that case, connect gives EAGAIN and has *not* started, unlike a TCP connect in progress: waiting for writability
    would mistake an unconnected socket for a connected one.
    """
    sock = socket.socket(socket.AF_UNIX, _KIND)
    try:
        if not _BORN_NON_BLOCKING:
            sock.setblocking(False)
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


async def listen(endpoint: UnixEndpoint, options: ListenOptions) -> list[Listener]:
    """Bind ``endpoint``'s path with mode 0600. Raises `ListenError`."""
    try:
        plain = bind(endpoint.path, options)
    except OSError as error:
        raise ListenError(endpoint, listen_cause(error), error) from error
    return [listener(plain, endpoint.path, str(endpoint), partial(accepted, str(endpoint)))]


def listener(
    plain: socket.socket,
    path: str,
    where: str,
    wrap: Callable[[AnySocket, object], SocketStream],
) -> Listener:
    """Return the listener of a socket that `bind` has bound to ``path``; closing it removes the file."""
    return SocketListener(trio.socket.from_stdlib_socket(plain), where, wrap, partial(remove, path), plain)


def bind(path: str, options: ListenOptions) -> socket.socket:
    """Bind and listen, replacing the dead socket of a listener that is gone. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        set_buffers(sock, options)
        try:
            _bind_private(sock, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_dead(path):
                raise
            Path(path).unlink()
            _bind_private(sock, path)
        sock.listen(options.backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_private(sock: socket.socket, path: str) -> None:
    """Make the socket file with mode 0600: a chmod afterwards might follow a link that somebody has put there."""
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def remove(path: str) -> None:
    """Remove a listener's socket file."""
    with suppress(OSError):
        Path(path).unlink()


def fault(endpoint: UnixEndpoint, role: str) -> Problem | None:
    """Return None: every endpoint that parses can be used."""
    return None


def _is_dead(path: str) -> bool:
    """Whether ``path`` is a socket without a listener."""
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def accepted(where: str, sock: AnySocket, address: object) -> SocketStream:
    """Wrap an accepted client socket in a stream."""
    stream = SocketStream(sock)
    stream.peer = where  # a Unix client has no address of its own
    return stream
