"""`SocketStream`: trio's own conformance test, and what ours add to trio's promises."""

import errno
import socket

import pytest
import trio
import trio.testing

from hvbridge.transport.stream import SocketStream

Pair = tuple[SocketStream, SocketStream]


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection, non-blocking."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
    return near, far


async def plain_pair() -> Pair:
    """Streams over non-blocking sockets."""
    near, far = tcp_sockets()
    return SocketStream(near), SocketStream(far)


async def trio_pair() -> Pair:
    """Streams over trio's sockets."""
    near, far = tcp_sockets()
    return (
        SocketStream(trio.socket.from_stdlib_socket(near)),
        SocketStream(trio.socket.from_stdlib_socket(far)),
    )


async def clog(pair: Pair) -> Pair:
    """Fill what each stream can send."""
    for stream in pair:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    for stream in pair:
        with trio.move_on_after(0.2):
            while True:
                await stream.send_all(bytes(65536))
    return pair


makers = pytest.mark.parametrize("make", [plain_pair, trio_pair], ids=["plain", "trio"])


@pytest.mark.parametrize("make", [plain_pair, trio_pair], ids=["plain", "trio"])
async def test_it_is_a_half_closeable_stream_as_trio_means_it(make: object) -> None:
    """trio's own test of everything that a half-closeable stream promises."""

    async def clogged() -> Pair:
        return await clog(await make())  # type: ignore[operator]

    await trio.testing.check_half_closeable_stream(make, clogged)  # type: ignore[arg-type]


@makers
async def test_it_receives_into_a_buffer(make: object) -> None:
    """`receive_into` fills from the front, says how much, and says 0 at the end."""
    near, far = await make()  # type: ignore[operator]
    async with near, far:
        await near.send_all(b"hello")
        await near.send_eof()
        buffer = memoryview(bytearray(3))
        await far.wait_receive_might_not_block()
        assert await far.receive_into(buffer) == 3
        assert bytes(buffer) == b"hel"
        assert await far.receive_into(buffer) == 2
        assert bytes(buffer[:2]) == b"lo"
        assert await far.receive_into(buffer) == 0


@makers
async def test_abort_is_a_reset_for_the_peer(make: object) -> None:
    """The peer of an aborted stream sees a reset, with the system's error as the cause; again does nothing."""
    near, far = await make()  # type: ignore[operator]
    near.abort()
    near.abort()
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError) as failure:
        await far.receive_some()
    assert isinstance(failure.value.__cause__, ConnectionResetError | ConnectionAbortedError)
    await far.aclose()
    far.abort()


@makers
async def test_closing_before_aborting_stays_clean(make: object) -> None:
    """To abort what was closed already takes nothing back."""
    near, far = await make()  # type: ignore[operator]
    async with far:
        await near.send_all(b"bye")
        await near.aclose()
        near.abort()
        assert await far.receive_some() == b"bye"
        assert await far.receive_some() == b""


@makers
@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_closing_wakes_who_waits(make: object, how: str) -> None:
    """A task that waits on a stream is told when another closes it."""
    near, far = await make()  # type: ignore[operator]

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await near.wait_receive_might_not_block()
            await near.receive_into(memoryview(bytearray(1)))  # a trio socket cannot wait without

    async with far, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if how == "abort":
            near.abort()
        else:
            await near.aclose()


async def test_two_senders_at_once_are_refused() -> None:
    """Two tasks that send would mix their bytes."""
    near, far = await clog(await plain_pair())
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await near.send_all(b"y")
        with pytest.raises(trio.BusyResourceError):
            await near.send_eof()
        nursery.cancel_scope.cancel()


@makers
async def test_a_family_judges_the_ends_of_reading(make: object) -> None:
    """A read of nothing, and a failed one, mean what the family says."""

    class Contrary(SocketStream):
        def read_ended(self) -> None:
            raise ConnectionResetError(errno.ECONNRESET, "no clean end")

        def read_failed(self, error: OSError) -> None:
            return

    def contrary(stream: SocketStream) -> Contrary:
        return Contrary(stream.plain or stream.socket)

    near, far = await make()  # type: ignore[operator]
    async with contrary(far) as judged:
        await near.send_eof()
        with pytest.raises(trio.BrokenResourceError, match="no clean end"):
            await judged.receive_some()
    await near.aclose()

    near, far = await make()  # type: ignore[operator]
    async with contrary(far) as judged:
        near.abort()
        assert await judged.receive_into(memoryview(bytearray(1))) == 0
