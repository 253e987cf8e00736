"""The byte stream that is spliced: half-closeable, and able to end with a reset. And its form over a socket.

Socket options are set by whoever makes the socket: once, on the listener, from which accepted sockets inherit them.
OS errors leave as trio's stream errors with the OSError as ``__cause__``, so that the splice can tell a reset from
another failure.
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
"""Bytes that `SocketStream.receive_some` asks for unless told: what trio's own stream asks for."""

_CLOSED = frozenset({errno.EBADF, errno.ENOTSOCK})
"""What a call on a socket that we closed fails with: POSIX, Windows."""


HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a client to say who it is, where its transport asks; it does so at once or never."""


class HandshakeError(Exception):
    """A client did not say who it is in the way its transport demands; the message says what it did."""


class Stream(trio.abc.HalfCloseableStream):
    """A half-closeable stream that can also be cut.

    Whoever holds it closes it: by `aclose` after both directions ended, by `abort` otherwise.
    Errors are trio's: `trio.BrokenResourceError` (its ``__cause__`` is the OSError),
    `trio.ClosedResourceError`, `trio.BusyResourceError`.
    """

    __slots__ = ()

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Receive into ``buffer`` and return the number of bytes; 0 is a clean end of the peer's data."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, so that the peer sees a reset wherever the socket family can tell of one.

        Closing what is closed already does nothing.
        """

    async def wait_receive_might_not_block(self) -> None:
        """Wait until `receive_into` might return at once, so that an idle reader needs no buffer."""


class SocketStream(Stream):
    """A `Stream` over a connected socket, a non-blocking one or trio's. Closing the stream closes the socket.

    Making one makes no system call, and trio's socket only where it is used: two are made for each connection.
    """

    __slots__ = ("_closed", "_sending", "_shut", "_trio_socket", "client_id", "peer", "plain", "vm_id")

    splices_plainly = True
    """Whether splice(2) is worth it in this family, and a short read has taken all that there was.

    Not so AF_VSOCK: hv_sock gives out one packet a read, and moves bytes only by copying.
    """

    close_ends_data = True
    """Whether closing alone tells the peer that all data has been sent, as `shut_down_writing` does."""

    def __init__(self, sock: socket.socket | trio.socket.SocketType) -> None:
        self.plain: socket.socket | None = None
        """The non-blocking socket; None for a trio socket, which may be of a custom factory's make."""
        self._trio_socket: trio.socket.SocketType | None = None
        if isinstance(sock, socket.socket):
            self.plain = sock
        else:
            self._trio_socket = sock
        self.peer = ""
        """Who is at the other end, in words, as far as the transport tells."""
        self.client_id: ClientId = None
        """The same, for an `AccessList`."""
        self.vm_id: UUID | None = None
        """The VM that was dialled; None for all other streams."""
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

    # What a socket family may do otherwise.

    async def do_handshake(self) -> None:
        """Exchange what must pass before the connection's own bytes; to be awaited once, before them.

        Waits only where the peer has not sent its part yet. Raises `HandshakeError`, and nothing else for what a peer
        may do.
        """

    def read_ended(self) -> None:
        """Judge a read of 0 bytes: return when the peer ended its data cleanly, raise OSError when not.

        A family whose sockets cannot tell a reset from an end overrides this.
        """

    def read_failed(self, error: OSError) -> None:
        """Judge a failed read: return when ``error`` means a clean end in this family, raise it when not."""
        raise error

    def shut_down_writing(self) -> None:
        """Tell the peer that no more data comes. Raises OSError, unlike `send_eof`, which calls it."""
        if not self._shut:  # a second time is ENOTCONN on macOS
            (self.plain or self.socket).shutdown(socket.SHUT_WR)
            self._shut = True

    def close(self) -> None:
        """Close without a checkpoint. Closing what is closed already does nothing.

        No task may be waiting on the stream: `aclose` and `abort` wake those that do, and that search costs
        more than the closing.
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
        """Let tasks that wait on the socket know that it is about to be closed; trio's own does so itself."""
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
