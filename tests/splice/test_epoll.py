"""What only the Linux plane does: splice(2) through pipes, and what it does where that cannot be had."""

import errno
import os
import select
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

if sys.platform != "linux":
    pytest.skip("the plane stands on epoll and splice(2)", allow_module_level=True)

import fcntl
import termios

from hvbridge.splice import Limits, Reason, Transfer, open_splicer
from hvbridge.splice import bulk_pump as bulk
from hvbridge.splice import epoll_pump as pump
from hvbridge.splice import pipe_pool as pipes
from hvbridge.splice.bulk_pump import Shared
from hvbridge.splice.close_rules import CLIENT, Pair
from hvbridge.splice.epoll import EpollSplicer
from hvbridge.splice.epoll_pump import Pump
from hvbridge.splice.timeouts import Watch
from hvbridge.transport.stream import SocketStream

from .conftest import Bench, expect_reset, read_exactly, read_to_end, tcp_pair, unix_pair

BLOCK = os.urandom(4 << 20)


@pytest.fixture
async def splicer() -> AsyncIterator[EpollSplicer]:
    """The plane alone."""
    watch = Watch()
    async with trio.open_nursery() as nursery:
        plane = EpollSplicer(watch)
        nursery.start_soon(watch.run)
        nursery.start_soon(plane.run)
        yield plane
        nursery.cancel_scope.cancel()


async def carry(bench: Bench, *, through: str = "unix") -> None:
    """Carry bulk both ways, and insist that it arrives whole."""
    connection = bench.splice(upstream=unix_pair() if through == "unix" else tcp_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.client.send_all, BLOCK)
        nursery.start_soon(connection.upstream.send_all, BLOCK[::-1])
        assert await read_exactly(connection.upstream, len(BLOCK)) == BLOCK
        assert await read_exactly(connection.client, len(BLOCK)) == BLOCK[::-1]
    await connection.client.send_eof()
    await connection.upstream.send_eof()
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.EOF


class Calls:
    """A stand-in for os.splice that counts, and fails when told."""

    def __init__(self, fails: int | None = None) -> None:
        self.count = 0
        self._fails = fails

    def __call__(self, src: int, dst: int, count: int, offset_src: None, offset_dst: None, flags: int) -> int:
        self.count += 1
        if self._fails is not None:
            raise OSError(self._fails, os.strerror(self._fails))
        return os_splice(src, dst, count, flags=flags)


os_splice = os.splice


def fionread(sock: socket.socket) -> int:
    """Bytes that a socket has received and nobody has read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_linux_gets_the_plane() -> None:
    """On Linux, `open_splicer` opens the plane."""
    async with open_splicer() as splicer:
        assert isinstance(splicer, EpollSplicer)


async def test_real_sockets_go_the_planes_way(bench: Bench) -> None:
    """A connection of real sockets is the plane's, which knows its descriptors while it lives."""
    connection = bench.splice(upstream=unix_pair())
    await connection.client.send_all(b"x")
    await read_exactly(connection.upstream, 1)
    pumps = bench.splicer._pumps  # type: ignore[attr-defined]
    assert len(pumps) == 2
    await connection.client.aclose()
    await connection.upstream.aclose()
    await connection.ended.wait()
    assert not pumps


async def test_bulk_goes_through_pipes_and_messages_do_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small messages are copied; splice(2) is called only once data is bulky."""
    calls = Calls()
    monkeypatch.setattr(bulk, "splice", calls)
    connection = bench.splice()
    for _ in range(10):
        await connection.client.send_all(b"m" * 1000)
        await read_exactly(connection.upstream, 1000)
    assert calls.count == 0
    await carry(bench)
    assert calls.count > 0


class Script:
    """A stand-in for os.splice: reads give what is in the script, byte counts or errors, and writes take all."""

    def __init__(self, source: int, *reads: int | OSError) -> None:
        self.calls: list[str] = []
        self._source = source
        self._reads = list(reads)

    def __call__(self, src: int, dst: int, count: int, *_: object) -> int:
        if src != self._source:
            self.calls.append(f"write {count}")
            return count
        read = self._reads.pop(0)
        if isinstance(read, OSError):
            raise read
        self.calls.append(f"read {read}")
        return read


def scripted(monkeypatch: pytest.MonkeyPatch, *reads: int | OSError) -> tuple[list[str], list[int]]:
    """Let a pump of bulk move until it is drained or at its end; return its calls, and what each move said."""
    with socket.socket() as one, socket.socket() as other:
        script = Script(one.fileno(), *reads)
        monkeypatch.setattr(bulk, "splice", script)
        shared = Shared()
        of_bulk = bulk.Bulk(one.fileno(), other, True, shared, b"")
        states = [of_bulk.move(Pair(Limits(), Transfer(), 0), CLIENT, False, 1)]
        while states[-1] == bulk.UNFINISHED:
            states.append(of_bulk.move(Pair(Limits(), Transfer(), 0), CLIENT, False, 1))
        shared.pipes.close()
    return script.calls, states


async def test_large_reads_fill_the_pipe_before_it_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large read another is tried first; a small one is passed on at once."""
    calls, states = scripted(monkeypatch, 200_000, 200_000, BlockingIOError(), 9_000, BlockingIOError())
    assert calls == ["read 200000", "read 200000", "write 400000", "read 9000", "write 9000"]
    assert states == [bulk.DRAINED]


@pytest.mark.parametrize("budget", [1, bulk.BUDGET])
async def test_what_came_before_a_failure_is_passed_on(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """A read that fails while the pipe is filled is told once the pipe is empty."""
    monkeypatch.setattr(bulk, "BUDGET", budget)
    calls, states = scripted(monkeypatch, 200_000, ConnectionResetError(errno.ECONNRESET, "reset"))
    assert calls == ["read 200000", "write 200000"]
    assert states == [bulk.READ_FAILED]


async def test_an_end_that_is_met_while_the_pipe_is_filled_is_met_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source that ends after a large read ends its direction once the pipe is empty."""
    calls, states = scripted(monkeypatch, 200_000, 0, 0)
    assert calls == ["read 200000", "read 0", "write 200000", "read 0"]
    assert states == [bulk.ENDED]


async def test_a_source_whose_data_is_not_taken_does_not_wake_the_plane_for_each_byte(
    splicer: EpollSplicer,
) -> None:
    """While a destination is full, what its source goes on to send costs the plane nothing."""
    turns = 0
    turn = splicer._turn

    def counted(now: float) -> bool:
        nonlocal turns
        turns += 1
        return turn(now)

    splicer._turn = counted  # type: ignore[method-assign]
    source, near = tcp_pair()
    sink, far = unix_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splicer.splice, SocketStream(near), SocketStream(far), Limits(), Transfer())
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        blocked = 0
        while blocked < 3:  # until the plane has read nothing more for a while
            sent = await source.send(b"x" * 100_000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            blocked = blocked + 1 if fionread(near) > sent else 0
        turns = 0
        for _ in range(100):
            await source.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
        assert turns < 20
        nursery.cancel_scope.cancel()
    source.close()
    sink.close()


class Waits:
    """A stand-in for the plane's epoll that counts the waits in which nothing came."""

    def __init__(self, inner: select.epoll) -> None:
        self.in_vain = 0
        self._inner = inner

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        ready = self._inner.poll(timeout, most)
        if timeout and not ready:
            self.in_vain += 1
        return ready

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


async def test_the_plane_does_not_hold_up_the_tasks_that_feed_it(bench: Bench) -> None:
    """Where the peers are tasks of the same loop, the plane learns soon not to wait for them without trio."""
    waits = bench.splicer._epoll = Waits(bench.splicer._epoll)  # type: ignore[attr-defined]
    for _ in range(8):
        await carry(bench)
    assert waits.in_vain < 10


async def test_without_pipes_bulk_is_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When every pipe is out, bulk still flows."""
    monkeypatch.setattr(pipes, "_MOST", 0)
    await carry(bench)


async def test_a_process_out_of_descriptors_copies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no pipe can be made, bulk still flows."""

    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    await carry(bench)


async def test_a_user_over_the_pipe_allowance_keeps_small_pipes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused F_SETPIPE_SZ leaves a pipe of the size it has."""

    def refuse(fd: int, command: int, size: int) -> int:
        raise PermissionError(errno.EPERM, "over the allowance")

    monkeypatch.setattr(pipes.fcntl, "fcntl", refuse)
    await carry(bench)


async def test_a_kernel_that_cannot_splice_copies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where splice(2) from a socket is EINVAL, as for some families, bulk is copied."""
    calls = Calls(errno.EINVAL)
    monkeypatch.setattr(bulk, "splice", calls)
    await carry(bench)
    assert calls.count == 2  # once each way


@pytest.mark.parametrize("packet", [1_000, 40_000])
async def test_a_family_that_gives_out_packets_is_read_to_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, packet: int
) -> None:
    """hv_sock gives out one packet a read: a short read leaves the question open, and so the pump reads on."""

    def a_packet(fd: int, count: int) -> bytes:
        return os.read(fd, packet)

    def a_packet_into(fd: int, buffers: tuple[memoryview]) -> int:
        return os.readv(fd, (buffers[0][:packet],))

    monkeypatch.setattr(bulk, "readv", a_packet_into)

    monkeypatch.setattr(SocketStream, "splices_plainly", False)
    monkeypatch.setattr(pump, "read", a_packet)
    await carry(bench)


async def test_pipes_are_bounded_and_a_dirty_one_is_never_used_again(bench: Bench) -> None:
    """Many stalled bulk streams take no more pipes than allowed, and their ends leave only clean ones."""
    pool = bench.splicer._shared.pipes  # type: ignore[attr-defined]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    count = 150
    connections = [bench.splice(tcp_pair(65536), tcp_pair(65536)) for _ in range(count)]
    for connection in connections:
        bench.nursery.start_soon(send_until_broken, connection.client)
    await trio.testing.wait_all_tasks_blocked(0.05)
    used = len(os.listdir("/proc/self/fd")) - before - 4 * count  # noqa: PTH208
    assert 0 < used <= 2 * pipes._MOST
    for connection in connections:
        connection.scope.cancel()
        await connection.ended.wait()
    assert pool._lent == 0
    for spare in pool._spare:
        with pytest.raises(BlockingIOError):
            os.read(spare.read, 1)
    await carry(bench)


async def send_until_broken(stream: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await stream.send_all(BLOCK)


async def test_a_reset_ends_a_connection_whose_other_side_is_stalled(bench: Bench) -> None:
    """A reset that waits behind data which the other side does not take ends its own direction at once."""
    limits = Limits(half_close_timeout=0.1)
    connection = bench.splice(tcp_pair(65536), tcp_pair(65536), limits=limits)
    with trio.move_on_after(0.1):
        while True:
            await connection.client.send_all(BLOCK)
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.client.socket.close()
    await connection.ended.wait()
    assert connection.transfer.reason is Reason.RESET_BY_CLIENT
    await expect_reset(connection.upstream)


async def test_a_stream_without_a_descriptor_goes_the_portable_way(bench: Bench) -> None:
    """A pair in which one side is no real socket is spliced all the same."""

    class Fake(trio.socket.SocketType):
        """A socket of a custom factory: it has no descriptor."""

        def __init__(self, sock: trio.socket.SocketType) -> None:
            self._inner = sock

        did_shutdown_SHUT_WR = property(lambda self: self._inner.did_shutdown_SHUT_WR)  # type: ignore[assignment]

        def fileno(self) -> int:
            raise NotImplementedError

        def close(self) -> None:
            self._inner.close()

        def shutdown(self, flag: int) -> None:
            self._inner.shutdown(flag)

        def setsockopt(self, *args: object) -> None:  # type: ignore[override]
            self._inner.setsockopt(*args)  # type: ignore[call-overload]

        def recv_into(self, *args: object) -> object:  # type: ignore[override]
            return self._inner.recv_into(*args)  # type: ignore[arg-type]

        def send(self, *args: object) -> object:  # type: ignore[override]
            return self._inner.send(*args)  # type: ignore[arg-type]

    client, near = tcp_pair()
    upstream, far = tcp_pair()
    transfer = Transfer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            bench.splicer.splice,
            SocketStream(Fake(trio.socket.from_stdlib_socket(near))),
            SocketStream(far),
            Limits(),
            transfer,
        )
        await client.send(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert await read_to_end(trio.SocketStream(upstream)) == b"hello"
        upstream.close()
    client.close()
    assert transfer.reason is Reason.EOF


class Packets(SocketStream):
    """A stream of a family whose short reads leave open whether there is more."""

    splices_plainly = False


async def test_small_packets_without_end_give_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is bounded also where a read never tells that there is no more."""
    monkeypatch.setattr(pump, "read", lambda fd, count: b"x" * 1000)
    monkeypatch.setattr(pump, "write", lambda fd, data: len(data))
    with socket.socket() as one, socket.socket() as other:
        pair = Pair(Limits(), Transfer(), 0)
        endless = Pump(pair, CLIENT, Packets(one), Packets(other), one.fileno(), other.fileno(), Shared())
        assert endless.move(1) == bulk.UNFINISHED
    assert pair.transfer.client_to_upstream == pytest.approx(bulk.BUDGET, abs=1000)


async def test_passing_on_what_was_held_is_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow destination that takes what a pump holds for it keeps its connection from being idle."""
    room = 0

    def write(fd: int, data: bytes) -> int:
        if not room:
            raise BlockingIOError
        return min(room, len(data))

    monkeypatch.setattr(pump, "read", lambda fd, count: b"x" * 1000)
    for module in (pump, bulk):
        monkeypatch.setattr(module, "write", write)
    with socket.socket() as one, socket.socket() as other:
        pair = Pair(Limits(), Transfer(), 0)
        source, sink = SocketStream(one), SocketStream(other)
        slow = Pump(pair, CLIENT, source, sink, one.fileno(), other.fileno(), Shared())
        assert slow.move(1) == bulk.BLOCKED
        room = 10
        assert slow.move(2) == bulk.BLOCKED
    assert pair.active == 2
    assert pair.transfer.client_to_upstream == 1000


async def test_a_turn_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pump that could go on for ever gives way: it is done for this turn, and goes on in the next."""
    monkeypatch.setattr(bulk, "BUDGET", 100_000)
    await carry(bench, through="tcp")
