"""What the splice promises of any connection, over real sockets, for both implementations."""

import errno
import hashlib
import random
import socket

import pytest
import trio
import trio.testing

from hvbridge.splice import Limits, Reason
from hvbridge.transport.stream import SocketStream

from .conftest import Bench, Connection, expect_reset, read_exactly, read_to_end, reset, tcp_pair, unix_pair

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no AF_UNIX here")
BLOCK = random.Random(7).randbytes(1 << 20)


def peers(connection: Connection, client_first: bool) -> tuple[trio.SocketStream, trio.SocketStream]:
    return (connection.client, connection.upstream)[:: 1 if client_first else -1]  # type: ignore[return-value]


both_sides = pytest.mark.parametrize("client_first", [True, False], ids=["client", "upstream"])


# Bytes.


async def test_bytes_go_both_ways(bench: Bench) -> None:
    """What either side sends, the other receives, and the counters follow while the connection lives."""
    connection = bench.splice()
    await connection.client.send_all(b"question")
    assert await read_exactly(connection.upstream, 8) == b"question"
    assert connection.transfer.client_to_upstream == 8
    assert connection.transfer.upstream_to_client == 0
    await connection.upstream.send_all(b"the answer")
    assert await read_exactly(connection.client, 10) == b"the answer"
    assert connection.transfer.upstream_to_client == 10
    assert connection.transfer.reason is None


async def test_bytes_that_wait_before_the_splice_begins_go_through(bench: Bench) -> None:
    """A client that sent its request, and its EOF, before the upstream was dialled is served."""
    peer, near = tcp_pair()
    await peer.send(b"early")
    peer.shutdown(socket.SHUT_WR)
    connection = bench.splice((peer, near))
    assert await read_to_end(connection.upstream) == b"early"


@needs_unix
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_bulk_goes_both_ways_at_once_to_slow_readers(bench: Bench, kind: str) -> None:
    """Much data each way at once, read in small and uneven pieces, arrives whole and in order."""
    connection = bench.splice(upstream=tcp_pair() if kind == "tcp" else unix_pair())

    async def send(stream: trio.SocketStream, seed: int) -> None:
        for block in blocks(seed):
            await stream.send_all(block)
        await stream.send_eof()

    async def receive(stream: trio.SocketStream, seed: int) -> None:
        digest, sizes = hashlib.sha256(), random.Random(seed)
        while data := await stream.receive_some(sizes.randint(1, 20_000)):
            digest.update(data)
        assert digest.digest() == hashlib.sha256(b"".join(blocks(seed))).digest()

    def blocks(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [BLOCK[chance.randint(0, 1 << 19) :] for _ in range(16)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, connection.client, 1)
        nursery.start_soon(send, connection.upstream, 2)
        nursery.start_soon(receive, connection.upstream, 1)
        nursery.start_soon(receive, connection.client, 2)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF
    assert connection.transfer.client_to_upstream == sum(map(len, blocks(1)))
    assert connection.transfer.upstream_to_client == sum(map(len, blocks(2)))


@both_sides
async def test_a_stalled_reader_stops_the_writer(bench: Bench, client_first: bool) -> None:
    """Backpressure: while one side does not read, the other can send no more than a bounded amount."""
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536))
    sender, receiver = peers(connection, client_first)
    sent = 0
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            nonlocal sent
            while sent < 64 << 20:
                sent += await sender.socket.send(BLOCK)
            await sender.send_eof()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.1)
        stalled_at = sent
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert sent == stalled_at  # it stands still
        # Four socket buffers, which Linux makes twice as large as told, and what the splice may hold.
        assert sent < 4 * 2 * 65536 + 2 * 1024 * 1024
        received = 0
        while data := await receiver.receive_some():
            received += len(data)
    assert received == sent


async def test_both_receivers_stalled_is_no_deadlock(bench: Bench) -> None:
    """When both sides only send until they are blocked and then both read, everything arrives."""
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536))
    amount = 8 << 20

    async def send(stream: trio.SocketStream) -> None:
        for _ in range(amount >> 20):
            await stream.send_all(BLOCK)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, connection.client)
        nursery.start_soon(send, connection.upstream)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for stream in (connection.client, connection.upstream):
            nursery.start_soon(read_exactly_much, stream, amount)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF


async def read_exactly_much(stream: trio.SocketStream, amount: int) -> None:
    async for data in stream:
        amount -= len(data)
    assert amount == 0


# Clean ends.


@both_sides
async def test_half_close_is_passed_on_and_a_late_reply_comes_through(
    bench: Bench, client_first: bool
) -> None:
    """A side that has sent all reads on: its EOF reaches the other side, whose later answer reaches it."""
    connection = bench.splice()
    first, second = peers(connection, client_first)
    await first.send_all(b"all I have")
    await first.send_eof()
    assert await read_to_end(second) == b"all I have"
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not connection.ended.is_set()
    await second.send_all(b"late")
    await second.send_all(b" reply")
    await second.send_eof()
    assert await read_to_end(first) == b"late reply"
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF
    assert connection.transfer.detail == ""
    assert connection.is_closed()


async def test_both_sides_end_at_once(bench: Bench) -> None:
    """Two ends that cross are a clean end of the connection."""
    connection = bench.splice()
    for stream in (connection.client, connection.upstream):
        await stream.send_all(b"bye")
        await stream.send_eof()
    for stream in (connection.client, connection.upstream):
        assert await read_to_end(stream) == b"bye"
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF


async def test_nothing_runs_while_a_half_closed_connection_waits(bench: Bench) -> None:
    """An end of data that is there all the time wakes nobody: no task runs in a loop."""
    connection = bench.splice()
    await connection.client.send_eof()
    assert await read_to_end(connection.upstream) == b""
    with trio.fail_after(5):
        await trio.testing.wait_all_tasks_blocked(0.05)  # never returns while a task runs again and again


@needs_unix
async def test_nothing_runs_while_a_closed_unix_peer_waits_for_the_other_side(bench: Bench) -> None:
    """A Unix peer that left entirely, which the system reports as a hang-up without end, wakes nobody."""
    connection = bench.splice(upstream=unix_pair())
    await connection.upstream.send_all(b"last words")
    await connection.upstream.aclose()
    assert await read_to_end(connection.client) == b"last words"
    with trio.fail_after(5):
        await trio.testing.wait_all_tasks_blocked(0.05)
    await connection.client.send_eof()
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF


# Resets.


@both_sides
async def test_a_reset_is_a_reset_for_the_other_side(bench: Bench, client_first: bool) -> None:
    """A reset is never passed on as a clean end, and the reason says whose it was."""
    connection = bench.splice()
    first, second = peers(connection, client_first)
    await first.send_all(b"before")
    assert await read_exactly(second, 6) == b"before"
    reset(first)
    await expect_reset(second)
    await connection.ended.wait()
    assert connection.transfer.reason is (
        Reason.RESET_BY_CLIENT if client_first else Reason.RESET_BY_UPSTREAM
    )
    assert str(errno.ECONNRESET) in connection.transfer.detail or "10054" in connection.transfer.detail
    assert connection.is_closed()


@both_sides
async def test_data_before_a_reset_is_delivered(bench: Bench, client_first: bool) -> None:
    """What was received before the reset, and can go on without waiting, goes on."""
    client, upstream = tcp_pair(), tcp_pair()
    first = client[0] if client_first else upstream[0]
    await first.send(b"x" * 20_000)
    reset(trio.SocketStream(first))  # before the splice begins, so that it finds data and reset together
    connection = bench.splice(client, upstream)
    second = connection.upstream if client_first else connection.client
    await connection.ended.wait()
    count = connection.transfer.client_to_upstream + connection.transfer.upstream_to_client
    assert await read_exactly(second, count) == b"x" * count
    await expect_reset(second)
    if hasattr(socket, "AF_VSOCK"):  # Linux keeps what was received before the reset, Windows drops it
        assert count == 20_000


@both_sides
async def test_a_reset_after_half_close_is_a_reset_for_the_other_side(
    bench: Bench, client_first: bool
) -> None:
    """A side that may still answer and resets instead ends the connection for the side that waits."""
    connection = bench.splice()
    first, second = peers(connection, client_first)
    await first.send_eof()
    assert await read_to_end(second) == b""
    reset(second)
    await expect_reset(first)
    await connection.ended.wait()
    assert connection.transfer.reason is (
        Reason.RESET_BY_UPSTREAM if client_first else Reason.RESET_BY_CLIENT
    )


async def test_an_answer_outlives_the_refusal_of_the_question(bench: Bench) -> None:
    """An upstream that answers, closes, and so refuses the rest of an upload has its answer delivered."""
    connection = bench.splice()
    await connection.client.send_all(b"question")
    assert await read_exactly(connection.upstream, 8) == b"question"
    await connection.upstream.send_all(b"413 too much")
    await connection.upstream.aclose()
    assert await read_exactly(connection.client, 12) == b"413 too much"
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await connection.client.send_all(BLOCK)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.RESET_BY_UPSTREAM


@needs_unix
async def test_a_peer_that_stops_reading_may_go_on_sending(bench: Bench) -> None:
    """A failed write ends only its own direction: what that peer still sends is delivered to its end."""
    connection = bench.splice(upstream=unix_pair())
    connection.upstream.socket.shutdown(socket.SHUT_RD)
    await connection.client.send_all(b"refused")
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not connection.ended.is_set()
    for _ in range(4):
        await connection.upstream.send_all(BLOCK)
        assert await read_exactly(connection.client, len(BLOCK)) == BLOCK
    await connection.upstream.aclose()
    # The answer is known to be whole, so its end is a clean one, and a reset only for who sends on.
    assert await read_to_end(connection.client) == b""
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.RESET_BY_UPSTREAM


class EndsInWords(SocketStream):
    """A stream whose close does not tell that all data has been sent, and which must not say so here."""

    close_ends_data = False

    def shut_down_writing(self) -> None:
        raise AssertionError("a clean end was claimed")


@needs_unix
@pytest.mark.parametrize("client_type", [SocketStream, EndsInWords])
async def test_data_before_a_reset_is_delivered_to_a_slow_reader(
    bench: Bench, client_type: type[SocketStream]
) -> None:
    """What was received before a reset goes on for as long as the slow side takes it; then comes the reset."""
    connection = bench.splice(tcp_pair(65536), unix_pair(), client_type=client_type)
    await connection.client.send_all(b"never read")
    data = BLOCK[: 400 * 1024]

    async def answer_and_leave() -> None:
        await connection.upstream.send_all(data)
        await connection.upstream.aclose()  # with data unread: its peer gets ECONNRESET

    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_and_leave)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(trio.BrokenResourceError):
            while part := await connection.client.receive_some(10_000):
                received += part
    assert data.startswith(received)
    assert len(received) > len(data) // 2  # the rest was in a socket buffer that a reset empties
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.RESET_BY_UPSTREAM


# Limits.


async def test_an_idle_connection_is_reset(bench: Bench) -> None:
    """Without a byte either way for the idle timeout, both sides see a reset."""
    connection = bench.splice(limits=Limits(idle_timeout=0.05))
    await expect_reset(connection.client)
    await expect_reset(connection.upstream)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.IDLE
    assert connection.transfer.detail == "no byte either way for 0.05 s"
    assert connection.is_closed()


async def test_a_connection_is_reset_at_its_maximum_lifetime(bench: Bench) -> None:
    """The maximum lifetime counts from the start, however busy the connection is."""
    connection = bench.splice(limits=Limits(max_lifetime=0.1, idle_timeout=30))
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await connection.client.send_all(b"tick")
            await read_exactly(connection.upstream, 4)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.LIFETIME


@both_sides
async def test_the_half_close_timeout_resets_a_silent_rest(bench: Bench, client_first: bool) -> None:
    """Once one direction has ended, the other lives only while bytes move."""
    connection = bench.splice(limits=Limits(half_close_timeout=0.05))
    first, second = peers(connection, client_first)
    await trio.testing.wait_all_tasks_blocked(0.1)  # it does not count while both directions are open
    assert not connection.ended.is_set()
    await first.send_eof()
    await expect_reset(first)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.HALF_CLOSE_TIMEOUT
    await second.aclose()


async def test_a_stalled_peer_does_not_outlive_the_idle_timeout(bench: Bench) -> None:
    """A connection whose bytes are not taken is idle, and they are dropped."""
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536), limits=Limits(idle_timeout=0.1))
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await connection.client.send_all(BLOCK)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.IDLE


async def test_a_slow_reader_is_not_idle(bench: Bench) -> None:
    """A peer that keeps taking, if slowly, what the splice holds for it keeps the connection alive."""
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536), limits=Limits(idle_timeout=0.4))

    async def send() -> None:
        for _ in range(3):
            await connection.client.send_all(BLOCK)
        await connection.client.send_eof()
        await connection.upstream.send_eof()

    bench.nursery.start_soon(send)
    received = 0
    while data := await connection.upstream.receive_some(65536):
        received += len(data)
        await trio.sleep(0.02)
    assert received == 3 * len(BLOCK)


async def test_no_limit_touches_an_ended_connection(bench: Bench) -> None:
    """A limit that would be over later does not touch a connection that has ended by itself."""
    connection = bench.splice(limits=Limits(idle_timeout=0.05, half_close_timeout=0.05, max_lifetime=0.05))
    await connection.client.send_eof()
    await connection.upstream.send_eof()
    await connection.ended.wait()
    await trio.testing.wait_all_tasks_blocked(0.1)
    assert connection.transfer.reason is Reason.EOF


# Cancellation and bugs.


@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "with data in hand"])
async def test_cancelling_resets_both_sides(bench: Bench, blocked: bool) -> None:
    """A cancelled splice resets both sides, keeps its counters, and lets the cancellation out."""
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536))
    if blocked:
        bench.nursery.start_soon(send_until_broken, connection.client)
        await trio.testing.wait_all_tasks_blocked(0.05)
    else:
        await connection.client.send_all(b"hello")
        await read_exactly(connection.upstream, 5)
    connection.scope.cancel()
    await connection.ended.wait()
    assert isinstance(connection.error, trio.Cancelled)
    assert connection.is_closed()
    assert connection.transfer.reason is None  # whoever cancelled knows it
    assert connection.transfer.client_to_upstream == 5 or blocked
    await expect_reset(connection.upstream)
    if not blocked:
        await expect_reset(connection.client)


async def send_until_broken(stream: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await stream.send_all(BLOCK)


async def test_a_bug_in_one_connection_leaves_the_others(splicer: object, bench: Bench) -> None:
    """An exception that no peer can cause comes out of its own splice, and other connections live on."""

    class Faulty(SocketStream):
        def read_ended(self) -> None:
            raise RuntimeError("a bug")

    other = bench.splice()
    peer, near = tcp_pair()
    far, upstream = tcp_pair()
    with pytest.RaisesGroup(RuntimeError, allow_unwrapped=True, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                bench.splicer.splice, Faulty(near), SocketStream(upstream), Limits(), other.transfer
            )
            peer.shutdown(socket.SHUT_WR)
    await expect_reset(trio.SocketStream(peer))
    await expect_reset(trio.SocketStream(far))
    peer.close()
    far.close()
    await other.client.send_all(b"still here")
    assert await read_exactly(other.upstream, 10) == b"still here"


# What a socket family may tell.


async def test_a_family_may_call_an_end_a_reset(bench: Bench) -> None:
    """Where sockets cannot tell a reset from an end, the stream's own word counts."""

    class NeverClean(SocketStream):
        def read_ended(self) -> None:
            raise ConnectionResetError(errno.ECONNRESET, "the peer left without a word")

    connection = bench.splice(upstream_type=NeverClean)
    await connection.upstream.send_all(b"data")
    await connection.upstream.send_eof()
    assert await read_exactly(connection.client, 4) == b"data"
    await expect_reset(connection.client)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.RESET_BY_UPSTREAM
    assert "without a word" in connection.transfer.detail


async def test_a_family_may_call_a_failed_read_an_end(bench: Bench) -> None:
    """Where a failing read is how data ends, the stream's own word counts."""

    class EndsWithReset(SocketStream):
        def read_failed(self, error: OSError) -> None:
            assert error.errno in (errno.ECONNRESET, errno.ECONNABORTED)

    connection = bench.splice(upstream_type=EndsWithReset)
    await connection.upstream.send_all(b"data")
    assert await read_exactly(connection.client, 4) == b"data"
    reset(connection.upstream)
    assert await read_to_end(connection.client) == b""


async def test_a_family_may_add_to_the_end_of_writing(bench: Bench) -> None:
    """An end that is passed on goes through the stream's own `shut_down_writing`."""
    told = trio.Event()

    class Tells(SocketStream):
        def shut_down_writing(self) -> None:
            told.set()
            super().shut_down_writing()

    connection = bench.splice(upstream_type=Tells)
    await connection.client.send_eof()
    await told.wait()
    assert await read_to_end(connection.upstream) == b""


async def test_another_failure_is_an_error_of_its_side(bench: Bench) -> None:
    """A failure that is no reset, such as a time-out, is told as an error, with the system's words."""

    class TimesOut(SocketStream):
        def read_failed(self, error: OSError) -> None:
            raise TimeoutError(errno.ETIMEDOUT, "nobody there")

    connection = bench.splice(client_type=TimesOut)
    reset(connection.client)
    await expect_reset(connection.upstream)
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.ERROR_ON_CLIENT
    assert "nobody there" in connection.transfer.detail


# Many at once.


async def test_many_connections_at_once(bench: Bench) -> None:
    """Each of many connections carries its own bytes and ends by itself."""

    async def talk(number: int) -> None:
        connection = bench.splice()
        for step in range(5):
            message = f"{number} {step}".encode().ljust(100)
            await connection.client.send_all(message)
            assert await read_exactly(connection.upstream, 100) == message
            await connection.upstream.send_all(message[::-1])
            assert await read_exactly(connection.client, 100) == message[::-1]
        await connection.client.aclose()
        assert await read_to_end(connection.upstream) == b""
        await connection.upstream.aclose()
        await connection.ended.wait()
        assert connection.transfer.reason is Reason.EOF
        assert connection.transfer.client_to_upstream == connection.transfer.upstream_to_client == 500

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(talk, number)


async def test_bulk_starves_nobody(bench: Bench) -> None:
    """While streams of bulk run, a small message still gets through every time, and other tasks run."""
    async with trio.open_nursery() as nursery:
        bulky = [bench.splice() for _ in range(4)]
        for connection in bulky:
            nursery.start_soon(send_for_ever, connection.client)
            nursery.start_soon(receive_for_ever, connection.upstream)
        quiet = bench.splice()
        with trio.fail_after(20):
            for _ in range(100):
                await quiet.client.send_all(b"ping")
                await read_exactly(quiet.upstream, 4)
        assert all(connection.transfer.client_to_upstream for connection in bulky)
        nursery.cancel_scope.cancel()


async def send_for_ever(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(BLOCK)


async def receive_for_ever(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def test_a_connection_can_be_ended_from_outside(bench: Bench) -> None:
    """While it is spliced, `Transfer.end` ends it: both sides see a reset, and the reason is the given one."""
    connection = bench.splice()
    await connection.client.send_all(b"x")
    await read_exactly(connection.upstream, 1)
    assert connection.transfer.end is not None
    connection.transfer.end(Reason.CLOSED_BY_ADMIN, "someone wanted it")
    await expect_reset(connection.client)
    await expect_reset(connection.upstream)
    await connection.ended.wait()
    assert (connection.transfer.reason, connection.transfer.detail) == (
        Reason.CLOSED_BY_ADMIN,
        "someone wanted it",
    )
    assert connection.transfer.end is None


async def test_a_bandwidth_is_kept(bench: Bench) -> None:
    """However fast the sender, a limited connection takes the time that its bytes need; each way for itself."""
    connection = bench.splice(limits=Limits(bandwidth=1_000_000))
    size = 400_000
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.client.send_all, b"u" * size)
        nursery.start_soon(connection.upstream.send_all, b"d" * size)
        nursery.start_soon(read_exactly, connection.upstream, size)
        nursery.start_soon(read_exactly, connection.client, size)
    assert trio.current_time() - began > 0.25
