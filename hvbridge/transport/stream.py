"""The byte streams that are spliced: half-closeable, and able to end with a reset; and their socket implementation.

Socket options are set when a socket is created: once, on the listener, from which accepted sockets inherit them.
OS errors become trio's stream errors with the OSError as ``__cause__``, so that the splice can distinguish a reset
from other failures.
"""

import errno
import socket
import struct
import sys
from abc import abstractmethod
from contextlib import suppress
from uuid import UUID

import trio

from hvbridge.address.client_id import ClientId

_LINGER_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER on, with zero seconds: close() sends a reset. ``struct linger`` is two u_short on Windows."""

_RECEIVE_SIZE = 64 * 1024
"""Default size of `SocketStream.receive_some`, in bytes; the same as trio's own stream."""

_CLOSED = frozenset({errno.EBADF, errno.ENOTSOCK})
"""Errors of a call on a socket that this process has closed: POSIX, Windows."""


HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a client to identify itself, if its transport requires it; a client does so at once or never."""


class HandshakeError(Exception):
    """A client did not identify itself as its transport requires; the message says what it did instead."""


class Stream(trio.abc.HalfCloseableStream):
    """A half-closeable stream that can also be reset.

    The owner closes it: with `aclose` after both directions have ended, otherwise with `abort`.
    Errors are trio's: `trio.BrokenResourceError` (its ``__cause__`` is the OSError),
    `trio.ClosedResourceError`, `trio.BusyResourceError`.
    """

    __slots__ = ()

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Receive into ``buffer`` and return the number of bytes; 0 is a clean end of the peer's data."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, with a reset if the socket family has one. Does nothing if already closed."""

    async def wait_receive_might_not_block(self) -> None:
        """Wait until `receive_into` might not block, so that an idle reader needs no buffer."""


class SocketStream(Stream):
    """A `Stream` over a connected socket, either non-blocking or trio's. Closing the stream closes the socket.

    Creating one makes no system call, and creates a trio socket only when needed: each connection has two streams.
    """

    __slots__ = ("_closed", "_sending", "_shut", "_trio_socket", "client_id", "peer", "plain", "vm_id")

    splices_plainly = True
    """Whether splice(2) pays off in this family, and a short read implies EAGAIN.

    False for AF_VSOCK: hv_sock returns one packet per read, and can only copy.
    """

    close_ends_data = True
    """Whether close alone signals a clean end of data to the peer, as `shut_down_writing` does."""

    def __init__(self, sock: socket.socket | trio.socket.SocketType) -> None:
        self.plain: socket.socket | None = None
        """The non-blocking socket; None for a trio socket, which may come from a custom factory."""
        self._trio_socket: trio.socket.SocketType | None = None
        if isinstance(sock, socket.socket):
            self.plain = sock
        else:
            self._trio_socket = sock
        self.peer = ""
        """The peer, for messages, as far as the transport reports it."""
        self.client_id: ClientId = None
        """The identity of the peer, for an `AccessList`."""
        self.vm_id: UUID | None = None
        """The VM that was dialled; None for other streams."""
        self._sending = False
        self._shut = False
        self._closed = False

    @property
    def socket(self) -> trio.socket.SocketType:
        """The trio socket."""
        if self._trio_socket is None:
            assert self.plain is not None
            self._trio_socket = trio.socket.from_stdlib_socket(self.plain)
        return self._trio_socket

    # What a socket family may override.

    async def do_handshake(self) -> None:
        """Perform the transport's handshake; to be awaited once, before any other data.

        Waits only if the peer has not sent its part yet. Whatever the peer does, raises only `HandshakeError`.
        """

    def read_ended(self) -> None:
        """Called after a read of 0 bytes: return if the peer ended its data cleanly, else raise OSError.

        Overridden by families whose sockets cannot distinguish a reset from a clean end.
        """

    def read_failed(self, error: OSError) -> None:
        """Called after a failed read: return if ``error`` means a clean end in this family, else raise it."""
        raise error

    def shut_down_writing(self) -> None:
        """Signal the end of data to the peer. Raises OSError, unlike `send_eof`, which calls this."""
        if not self._shut:  # a second call gives ENOTCONN on macOS
            (self.plain or self.socket).shutdown(socket.SHUT_WR)
            self._shut = True

    def close(self) -> None:
        """Close without a checkpoint. Does nothing if already closed.

        No task may be waiting on the stream: only `aclose` and `abort` wake waiting tasks, which takes longer than
        closing.
        """
        self._closed = True
        (self.plain or self.socket).close()

    # Receiving.

    async def receive_into(self, buffer: memoryview) -> int:
        try:
            try:
                received = await self._receive(buffer)
            except OSError as error:
                if error.errno in _CLOSED:
                    raise
                self.read_failed(error)
                return 0
            if not received:
                self.read_ended()
        except OSError as error:
            raise _stream_error(error) from error
        return received

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        await trio.lowlevel.checkpoint()
        buffer = bytearray(max_bytes or _RECEIVE_SIZE)
        received = await self.receive_into(memoryview(buffer))
        return bytes(memoryview(buffer)[:received])

    async def wait_receive_might_not_block(self) -> None:
        self._check_open()
        if self.plain is not None:
            try:
                await trio.lowlevel.wait_readable(self.plain)
            except OSError as error:
                raise _stream_error(error) from error

    async def _receive(self, buffer: memoryview) -> int:
        if self.plain is None:
            return await self.socket.recv_into(buffer)
        while True:
            try:
                return self.plain.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.plain)

    # Sending.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._claim_sending()
        try:
            self._check_open()
            if self._shut:
                raise trio.ClosedResourceError("cannot send after the end of data was sent")
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    sent += await self._send(view[sent:])
        except OSError as error:
            raise _stream_error(error) from error
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._claim_sending()
        try:
            self._check_open()
            await self.socket.wait_writable()
        except OSError as error:
            raise _stream_error(error) from error
        finally:
            self._sending = False

    async def _send(self, data: memoryview) -> int:
        if self.plain is None:
            return await self.socket.send(data)
        while True:
            try:
                return self.plain.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.plain)

    async def send_eof(self) -> None:
        self._claim_sending()
        try:
            await trio.lowlevel.checkpoint()
            self.shut_down_writing()
        except OSError as error:
            raise _stream_error(error) from error
        finally:
            self._sending = False

    # Ending.

    async def aclose(self) -> None:
        self._wake()
        self.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        if not self._closed:
            with suppress(OSError):  # a family without SO_LINGER
                (self.plain or self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self._wake()
            self.close()

    def _wake(self) -> None:
        """Wake tasks that wait on the socket before it is closed; a trio socket does so itself."""
        if self.plain is not None and not self._closed:
            trio.lowlevel.notify_closing(self.plain)

    def _claim_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this socket was closed")


def _stream_error(error: OSError) -> Exception:
    if error.errno in _CLOSED:
        return trio.ClosedResourceError("this socket was closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
