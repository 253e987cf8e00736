"""Both implementations of the splice, and a spliced connection between two peers that a test holds."""

import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio

from hvbridge.splice import Limits, Splicer, Transfer
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import SocketStream

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs epoll and splice(2)")


@pytest.fixture(params=["portable", pytest.param("epoll", marks=linux_only)])
async def splicer(request: pytest.FixtureRequest) -> AsyncIterator[Splicer]:
    """Each implementation in turn: what is promised is promised of both."""
    timeouts = TimeoutQueue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        if sys.platform == "linux" and request.param == "epoll":
            from hvbridge.splice.epoll import EpollSplicer

            splicer = EpollSplicer(timeouts)
            nursery.start_soon(splicer.run)
            yield splicer
        else:
            yield PortableSplicer(timeouts)
        nursery.cancel_scope.cancel()


Ends = tuple[trio.socket.SocketType, socket.socket]
"""A connection: the peer's end, which a test plays, and ours, which is spliced."""


def tcp_pair(buffers: int | None = None) -> Ends:
    """The ends of a TCP connection, with socket buffers of a size that does not grow if ``buffers`` is given."""
    with socket.socket() as listener, socket.socket() as peer:
        for end in (listener, peer):
            if buffers:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer.connect(listener.getsockname())
        ours, _ = listener.accept()
        return _ends(socket.socket(fileno=peer.detach()), ours)


def unix_pair() -> Ends:
    """The ends of a Unix-domain connection."""
    return _ends(*socket.socketpair())


def _ends(peer: socket.socket, ours: socket.socket) -> Ends:
    for end in (peer, ours):
        end.setblocking(False)
        if end.family == socket.AF_INET:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return trio.socket.from_stdlib_socket(peer), ours


def reset(stream: trio.SocketStream) -> None:
    """End a peer with a reset."""
    stream.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    )
    stream.socket.close()


async def expect_reset(stream: trio.SocketStream) -> None:
    """Read until the end, which must be a reset."""
    with pytest.raises(trio.BrokenResourceError) as failure:
        while await stream.receive_some():
            pass
        raise AssertionError("a clean end instead of a reset")
    assert isinstance(failure.value.__cause__, ConnectionResetError | ConnectionAbortedError)


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Everything that a peer still receives before a clean end."""
    return b"".join([data async for data in stream])


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """The next ``count`` bytes."""
    data = b""
    while len(data) < count:
        received = await stream.receive_some(count - len(data))
        assert received, f"an end after {len(data)} of {count} bytes"
        data += received
    return data


@dataclass
class Connection:
    """A connection under test: its two peers, which the test plays, and its transfer."""

    client: trio.SocketStream
    upstream: trio.SocketStream
    streams: tuple[SocketStream, SocketStream]
    transfer: Transfer = field(default_factory=Transfer)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    error: BaseException | None = None

    async def serve(self, splicer: Splicer, limits: Limits) -> None:
        with self.scope:
            try:
                await splicer.splice(*self.streams, limits, self.transfer)
            except BaseException as error:
                self.error = error
                raise
            finally:
                self.ended.set()

    def is_closed(self) -> bool:
        """Whether the splice closed both of its streams."""
        return all(stream.plain is not None and stream.plain.fileno() == -1 for stream in self.streams)


class Bench:
    """Splices connections between peers."""

    def __init__(self, nursery: trio.Nursery, splicer: Splicer, patience: trio.CancelScope) -> None:
        self.patience = patience
        self.nursery = nursery
        self.splicer = splicer
        self._open: list[Connection] = []

    def splice(
        self,
        client: tuple[trio.socket.SocketType, socket.socket] | None = None,
        upstream: tuple[trio.socket.SocketType, socket.socket] | None = None,
        *,
        limits: Limits | None = None,
        client_type: type[SocketStream] = SocketStream,
        upstream_type: type[SocketStream] = SocketStream,
    ) -> Connection:
        """Begin to splice; both sides are TCP unless told otherwise."""
        client_peer, client_end = client or tcp_pair()
        upstream_peer, upstream_end = upstream or tcp_pair()
        connection = Connection(
            trio.SocketStream(client_peer),
            trio.SocketStream(upstream_peer),
            (client_type(client_end), upstream_type(upstream_end)),
        )
        self._open.append(connection)
        self.nursery.start_soon(connection.serve, self.splicer, limits or Limits())
        return connection

    def forget(self) -> None:
        """Drop the connections so far, which have ended."""
        self._open.clear()

    def close(self) -> None:
        """Close the peers that a test left open."""
        for connection in self._open:
            connection.client.socket.close()
            connection.upstream.socket.close()


@pytest.fixture
async def bench(splicer: Splicer) -> AsyncIterator[Bench]:
    """Splices connections, and fails rather than hangs when one never ends."""
    with trio.fail_after(30) as patience:
        async with trio.open_nursery() as nursery:
            bench = Bench(nursery, splicer, patience)
            try:
                yield bench
            finally:
                bench.close()
                nursery.cancel_scope.cancel()
