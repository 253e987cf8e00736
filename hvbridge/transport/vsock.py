"""AF_VSOCK endpoints on Linux. Over hv_sock, AF_VSOCK is the guest side of Hyper-V sockets (see `linux_guest`)."""

import errno
import math
import socket
import struct
from dataclasses import replace

import trio

from hvbridge.address.endpoint import VsockEndpoint
from hvbridge.hyperv.constants import AF_VSOCK
from hvbridge.text import Problem
from hvbridge.transport.errors import DialError, ListenError, dial_cause, listen_cause
from hvbridge.transport.listener import AnySocket, Listener, SocketListener, connect, set_buffers
from hvbridge.transport.options import LONGEST_CONNECT, DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

_CONNECT_TIMEOUT = 6
"""SO_VM_SOCKETS_CONNECT_TIMEOUT at level AF_VSOCK, a struct timeval (linux/vm_sockets.h)."""


class VsockStream(SocketStream):
    """A stream over AF_VSOCK."""

    splices_plainly = False
    close_ends_data = False  # hv_sock's close waits for its own FIN

    def read_failed(self, error: OSError) -> None:
        """Treat EIO as EOF: some kernels from 2026 report it after the peer's FIN."""
        if error.errno != errno.EIO:
            raise error

    def abort(self) -> None:
        """Close at once. AF_VSOCK has no reset, and Python cannot set SO_LINGER on its sockets."""
        self.close()


async def dial(endpoint: VsockEndpoint, options: DialOptions) -> SocketStream:
    """Connect, and return the stream, which the caller closes. Raises `DialError`.

    The kernel's default timeout of 2 s is replaced by that of the dial.
    """
    try:
        plain = socket.socket(AF_VSOCK, socket.SOCK_STREAM)
        try:
            _set_connect_timeout(plain.fileno(), min(options.timeout, LONGEST_CONNECT))
            await connect(plain, (endpoint.cid, endpoint.port))
        except BaseException:
            plain.close()
            raise
    except OSError as error:
        raise DialError(endpoint, dial_cause(endpoint, error), error) from error
    return VsockStream(plain)


async def listen(endpoint: VsockEndpoint, options: ListenOptions) -> list[Listener]:
    """Bind and listen. Raises `ListenError`."""
    try:
        plain = socket.socket(AF_VSOCK, socket.SOCK_STREAM)
        sock = trio.socket.from_stdlib_socket(plain)
        try:
            if options.buffer is not None:
                # Linux doubles the value, and hv_sock sizes its rings by the doubled value.
                set_buffers(sock, replace(options, buffer=options.buffer // 2))
            await sock.bind((endpoint.cid, endpoint.port))
            sock.listen(options.backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise ListenError(endpoint, listen_cause(error), error) from error
    return [SocketListener(sock, str(endpoint), accepted, plain=plain)]


def fault(endpoint: VsockEndpoint, role: str) -> Problem | None:
    """Return None: every endpoint that parses can be used."""
    return None


def _set_connect_timeout(descriptor: int, seconds: float) -> None:
    whole = math.floor(seconds)
    timeval = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
    # CPython accepts only an int as an option of an AF_VSOCK socket, but a struct for other families; so wrap the
    # descriptor in a socket object of another family.
    alias = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    try:
        alias.setsockopt(AF_VSOCK, _CONNECT_TIMEOUT, timeval)
    finally:
        alias.detach()


def accepted(sock: AnySocket, address: object) -> SocketStream:
    """Wrap an accepted client socket in a stream."""
    stream = VsockStream(sock)
    stream.peer = str(VsockEndpoint(*address))  # type: ignore[misc]
    stream.client_id = address[0]  # type: ignore[index]
    return stream
