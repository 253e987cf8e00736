"""What only the epoll splicer does: splice(2) through pipes, and what it does where that does not work."""

import errno
import os
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

if sys.platform != "linux":
    pytest.skip("needs epoll and splice(2)", allow_module_level=True)
assert sys.platform == "linux"  # mypy does not take it from the skip
# ruff: noqa: E402

import fcntl
import termios

from hvbridge.splice import (
    Limits,
    Reason,
    Transfer,
    bulk_pump,
    epoll,
    epoll_pump,
    open_splicer,
    pipe_pool,
)
from hvbridge.splice.bulk_pump import BulkPump
from hvbridge.splice.close_rules import CLIENT, CloseState
from hvbridge.splice.direction import BUDGET, Direction, Progress, Shared
from hvbridge.splice.epoll import EpollSplicer
from hvbridge.splice.epoll_pump import Pump
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import SocketStream

from .conftest import Bench, expect_reset, read_exactly, read_to_end, tcp_pair, unix_pair

BLOCK = os.urandom(4 << 20)


@pytest.fixture
async def splicer() -> AsyncIterator[EpollSplicer]:
    """The epoll splicer alone."""
    timeouts = TimeoutQueue()
    async with trio.open_nursery() as nursery:
        splicer = EpollSplicer(timeouts)
        nursery.start_soon(timeouts.run)
        nursery.start_soon(splicer.run)
        yield splicer
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


async def test_linux_gets_the_epoll_splicer() -> None:
    """On Linux, `open_splicer` opens it."""
    async with open_splicer() as splicer:
        assert isinstance(splicer, EpollSplicer)


async def test_real_sockets_do_not_go_the_portable_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of real sockets is the epoll splicer's own."""
    monkeypatch.delattr(PortableSplicer, "splice")
    await carry(bench)


async def test_bulk_goes_through_pipes_and_messages_do_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small messages are copied; splice(2) is called only once data is bulky."""
    calls = Calls()
    monkeypatch.setattr(bulk_pump, "splice", calls)
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


def scripted(monkeypatch: pytest.MonkeyPatch, *reads: int | OSError) -> tuple[list[str], Progress]:
    """Let a bulk pump move until it is drained or at its end; return its calls, and what it said last."""
    with socket.socket() as one, socket.socket() as other:
        script = Script(one.fileno(), *reads)
        monkeypatch.setattr(bulk_pump, "splice", script)
        shared = Shared()
        connection = CloseState(Limits(), Transfer(), 0)
        way = Direction(connection, CLIENT, SocketStream(one), SocketStream(other), shared)
        pump = BulkPump(way, b"")
        while (progress := pump.move(1)) is Progress.UNFINISHED:
            pass
        shared.pipes.close()
    return script.calls, progress


async def test_large_reads_fill_the_pipe_before_it_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large read another is tried first; a small one is passed on at once."""
    calls, progress = scripted(monkeypatch, 200_000, 200_000, BlockingIOError(), 9_000, BlockingIOError())
    assert calls == ["read 200000", "read 200000", "write 400000", "read 9000", "write 9000"]
    assert progress is Progress.DRAINED


@pytest.mark.parametrize("budget", [1, BUDGET])
async def test_what_came_before_a_failure_is_passed_on(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """A read that fails while the pipe is filled is reported once the pipe is empty."""
    monkeypatch.setattr(bulk_pump, "BUDGET", budget)
    calls, progress = scripted(monkeypatch, 200_000, ConnectionResetError(errno.ECONNRESET, "reset"))
    assert calls == ["read 200000", "write 200000"]
    assert progress is Progress.READ_ERROR


async def test_an_end_that_is_met_while_the_pipe_is_filled_is_met_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source that ends after a large read ends its direction once the pipe is empty."""
    calls, progress = scripted(monkeypatch, 200_000, 0, 0)
    assert calls == ["read 200000", "read 0", "write 200000", "read 0"]
    assert progress is Progress.EOF


class Wakes(trio.abc.Instrument):
    """Counts how often the splicer's task runs."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("EpollSplicer.run")


async def test_a_source_whose_data_is_not_taken_does_not_wake_the_splicer_for_each_byte(
    splicer: EpollSplicer,
) -> None:
    """While a destination is full, what its source goes on to send costs the splicer nothing."""
    wakes = Wakes()
    trio.lowlevel.add_instrument(wakes)
    source, near = tcp_pair()
    sink, far = unix_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splicer.splice, SocketStream(near), SocketStream(far), Limits(), Transfer())
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        blocked = 0
        while blocked < 3:  # until the splicer has read nothing more for a while
            sent = await source.send(b"x" * 100_000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            blocked = blocked + 1 if fionread(near) > sent else 0
        assert wakes.count > 0
        wakes.count = 0
        for _ in range(100):
            await source.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
        assert wakes.count < 5
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(wakes)
    source.close()
    sink.close()


async def test_without_pipes_bulk_is_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When every pipe is out, bulk still flows."""
    monkeypatch.setattr(pipe_pool, "MAX_PIPES", 0)
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

    monkeypatch.setattr("hvbridge.splice.pipe_pool.fcntl.fcntl", refuse)
    await carry(bench)


async def test_a_kernel_that_cannot_splice_copies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where splice(2) from a socket is EINVAL, as for some families, bulk is copied."""
    calls = Calls(errno.EINVAL)
    monkeypatch.setattr(bulk_pump, "splice", calls)
    await carry(bench)
    assert calls.count == 2  # once each way


@pytest.mark.parametrize("packet", [1_000, 40_000])
async def test_a_family_that_gives_out_packets_is_read_to_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, packet: int
) -> None:
    """hv_sock gives out one packet a read: a short read does not imply EAGAIN, so the pump reads on."""

    def a_packet(fd: int, count: int) -> bytes:
        return os.read(fd, packet)

    def a_packet_into(fd: int, buffers: tuple[memoryview]) -> int:
        return os.readv(fd, (buffers[0][:packet],))

    monkeypatch.setattr(bulk_pump, "readv", a_packet_into)

    monkeypatch.setattr(SocketStream, "splices_plainly", False)
    monkeypatch.setattr(epoll_pump, "read", a_packet)
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
    assert 0 < used <= 2 * pipe_pool.MAX_PIPES
    for connection in connections:
        connection.scope.cancel()
        await connection.ended.wait()
    assert pool.lent == 0
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
    """A connection in which one side is no real socket is spliced all the same."""

    class Fake(trio.socket.SocketType):
        """A socket of a custom factory: it has no descriptor."""

        def __init__(self, sock: trio.socket.SocketType) -> None:
            self._inner = sock

        did_shutdown_SHUT_WR = property(lambda self: self._inner.did_shutdown_SHUT_WR)

        def fileno(self) -> int:
            raise NotImplementedError

        def close(self) -> None:
            self._inner.close()

        def shutdown(self, flag: int) -> None:
            self._inner.shutdown(flag)

        def setsockopt(self, *args: object) -> None:
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
    """A stream of a family in which a short read does not imply EAGAIN."""

    splices_plainly = False


async def test_small_packets_without_end_respect_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is bounded also where no read ever drains the source."""
    monkeypatch.setattr(epoll_pump, "read", lambda fd, count: b"x" * 1000)
    monkeypatch.setattr(epoll_pump, "write", lambda fd, data: len(data))
    with socket.socket() as one, socket.socket() as other:
        connection = CloseState(Limits(), Transfer(), 0)
        endless = Pump(connection, CLIENT, Packets(one), Packets(other), Shared())
        assert endless.move(1) is Progress.UNFINISHED
    assert connection.transfer.client_to_upstream == pytest.approx(BUDGET, abs=1000)


async def test_passing_on_what_was_held_is_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow destination that takes what a pump holds for it keeps its connection from being idle."""
    room = 0

    def write(fd: int, data: bytes) -> int:
        if not room:
            raise BlockingIOError
        return min(room, len(data))

    monkeypatch.setattr(epoll_pump, "read", lambda fd, count: b"x" * 1000)
    monkeypatch.setattr(epoll_pump, "write", write)
    monkeypatch.setattr("hvbridge.splice.bulk_pump.os.write", write)
    with socket.socket() as one, socket.socket() as other:
        connection = CloseState(Limits(), Transfer(), 0)
        slow = Pump(connection, CLIENT, SocketStream(one), SocketStream(other), Shared())
        assert slow.move(1) is Progress.BLOCKED
        room = 10
        assert slow.move(2) is Progress.BLOCKED
    assert connection.last_activity == 2
    assert connection.transfer.client_to_upstream == 1000


async def test_a_turn_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pump whose budget is exhausted goes on in the next turn."""
    monkeypatch.setattr(bulk_pump, "BUDGET", 100_000)
    await carry(bench, through="tcp")


async def test_a_pump_that_blocks_and_goes_on_within_one_turn_is_told_of_data(
    splicer: EpollSplicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pump may be blocked by an event, and find room when its unfinished move goes on in the same turn."""
    peer, near = unix_pair()
    other, far = unix_pair()
    moves: list[Progress] = []
    told = trio.Event()

    class Scripted(Pump[CloseState]):
        def move(self, now: float) -> Progress:
            if self.side != CLIENT:
                return Progress.DRAINED
            if not moves:
                os.write(peer.fileno(), b"x")  # so that an event comes together with the unfinished move
            progress = (Progress.UNFINISHED, Progress.BLOCKED, Progress.DRAINED)[min(len(moves), 2)]
            self.blocked = progress is Progress.BLOCKED
            moves.append(progress)
            if len(moves) > 3:
                told.set()
            return progress

    monkeypatch.setattr(epoll, "Pump", Scripted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splicer.splice, SocketStream(near), SocketStream(far), Limits(), Transfer())
        await peer.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert moves[1] is Progress.BLOCKED
        await peer.send(b"x")
        with trio.fail_after(5):
            await told.wait()
        nursery.cancel_scope.cancel()
    peer.close()
    other.close()
