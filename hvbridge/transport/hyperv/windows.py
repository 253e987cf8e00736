"""AF_HYPERV on Windows: Hyper-V sockets in CPython 3.12 and later, on a host or in a guest.

CPython's rules (Modules/socketmodule.c): an address is a tuple of two str, GUIDs without braces; the protocol must be
given; returned GUIDs are in lower case.
"""

import socket
from collections.abc import Callable
from uuid import UUID

import trio

from hvbridge.address.endpoint import Endpoint, HypervEndpoint
from hvbridge.hyperv.guid import HOST, PARENT, vm_text
from hvbridge.text import Problem
from hvbridge.transport.errors import Cause, DialError, ListenError, dial_cause, error_number, listen_cause
from hvbridge.transport.listener import AnySocket, Listener, SocketListener, set_buffers
from hvbridge.transport.options import LONGEST_CONNECT, DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

# hvsocket.h; CPython exports the first three only where it was built with them.
AF_HYPERV = 34
HV_PROTOCOL_RAW = 1
_CONNECT_TIMEOUT = 1
_CONNECTED_SUSPEND = 4

_WAIT_UNSUPPORTED = frozenset({10022, 10045})
"""WSAEINVAL, WSAEOPNOTSUPP: errors of waiting for a socket that does not support it."""

_USE_THREADS = 'the event loop cannot wait for sockets of this family here; set connect_mode = "thread"'

_connecting_threads = trio.CapacityLimiter(1024)
"""Most blocking connects at once; the forwards' dial slots are far lower limits."""


class HypervTransport:
    """Dials and listens through AF_HYPERV sockets.

    ``blocking_socket`` creates the socket of a connect in a thread, and ``adopt`` wraps it for trio.
    """

    def __init__(
        self,
        blocking_socket: Callable[[int, int, int], socket.socket] = socket.socket,
        adopt: Callable[[socket.socket], trio.socket.SocketType] = trio.socket.from_stdlib_socket,
    ) -> None:
        self._blocking_socket = blocking_socket
        self._adopt = adopt
        self._auto_uses_threads = False

    async def dial(self, endpoint: HypervEndpoint, options: DialOptions) -> SocketStream:
        """Connect, and return the stream, which the caller closes. Raises `DialError`."""
        try:
            stream = SocketStream(await self._connect(endpoint, options))
        except OSError as error:
            raise DialError(endpoint, dial_cause(endpoint, error), error) from error
        stream.vm_id = endpoint.vm
        return stream

    async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[Listener]:
        """Bind and listen. Raises `ListenError`."""
        try:
            sock = trio.socket.socket(AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
            try:
                set_buffers(sock, options)
                if options.connected_suspend:
                    sock.setsockopt(HV_PROTOCOL_RAW, _CONNECTED_SUSPEND, 1)
                await sock.bind(_address(endpoint))
                sock.listen(options.backlog)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise ListenError(endpoint, listen_cause(error), error) from error
        return [SocketListener(sock, str(endpoint), _accepted)]

    def fault(self, endpoint: Endpoint, role: str) -> Problem | None:
        """Return None: only bind and connect show whether this is a host or a guest."""
        return None

    async def _connect(self, endpoint: HypervEndpoint, options: DialOptions) -> trio.socket.SocketType:
        mode = options.connect_mode
        if mode == "thread" or (mode == "auto" and self._auto_uses_threads):
            return await self._connect_in_thread(endpoint, options)
        try:
            return await _connect_nonblocking(endpoint, options)
        except (RuntimeError, OSError) as error:
            if not _is_wait_failure(error):
                raise
            if mode != "auto":
                reason = error if isinstance(error, OSError) else OSError(str(error))
                raise DialError(endpoint, Cause.UNKNOWN, reason, _USE_THREADS) from error
        # The event loop cannot wait for such sockets here, and that will not change in this process.
        self._auto_uses_threads = True
        return await self._connect_in_thread(endpoint, options)

    async def _connect_in_thread(
        self, endpoint: HypervEndpoint, options: DialOptions
    ) -> trio.socket.SocketType:
        connected: list[socket.socket] = []
        abandoned = False

        def connect() -> None:
            sock = self._blocking_socket(AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
            try:
                _prepare(sock, options)
                sock.connect(_address(endpoint))
            except BaseException:
                sock.close()
                raise
            connected.append(sock)
            if abandoned:  # The caller was cancelled, so this thread closes the socket.
                sock.close()

        try:
            await trio.to_thread.run_sync(connect, abandon_on_cancel=True, limiter=_connecting_threads)
        except trio.Cancelled:
            # Set the flag first, then check: whichever thread comes second closes the socket.
            abandoned = True
            for sock in connected:
                sock.close()
            raise
        return self._adopt(connected[0])


async def _connect_nonblocking(endpoint: HypervEndpoint, options: DialOptions) -> trio.socket.SocketType:
    sock = trio.socket.socket(AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
    try:
        _prepare(sock, options)
        await sock.connect(_address(endpoint))
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare(sock: socket.socket | trio.socket.SocketType, options: DialOptions) -> None:
    # Without this option, Windows times out after 2 s, or not at all.
    milliseconds = max(1, int(min(options.timeout, LONGEST_CONNECT) * 1000))
    sock.setsockopt(HV_PROTOCOL_RAW, _CONNECT_TIMEOUT, milliseconds)
    if options.connected_suspend:
        sock.setsockopt(HV_PROTOCOL_RAW, _CONNECTED_SUSPEND, 1)


def _address(endpoint: HypervEndpoint) -> tuple[str, str]:
    return (str(endpoint.vm), str(endpoint.service))


def _is_wait_failure(error: RuntimeError | OSError) -> bool:
    """Whether waiting for the socket failed, rather than the connect itself.

    trio raises RuntimeError if it cannot find a base socket to poll. An error of the poll has ``winerror``; the result
    of a connect comes from SO_ERROR and has none.
    """
    if isinstance(error, RuntimeError):
        return True
    return getattr(error, "winerror", None) is not None and error_number(error) in _WAIT_UNSUPPORTED


def _accepted(sock: AnySocket, address: object) -> SocketStream:
    stream = SocketStream(sock)
    vm = UUID(address[0])  # type: ignore[index]  # and its service id is arbitrary
    stream.peer = f"hyperv://{vm_text(vm)}"
    stream.client_id = HOST if vm == PARENT else vm
    return stream
