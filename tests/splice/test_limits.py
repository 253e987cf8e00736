"""Limits to the moment, in virtual time: over memory streams, which only the portable splicer takes."""

import errno
import math
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from hvbridge.splice import Limits, Reason, Transfer
from hvbridge.splice.close_rules import CLIENT, UPSTREAM, CloseState
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import Stream

Clock = trio.testing.MockClock
MemoryEnd = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]


class MemoryStream(Stream):
    """Half of a lockstep pair: a send waits until its data has been received."""

    def __init__(self, inner: MemoryEnd) -> None:
        self._inner = inner
        self.aborted = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(max_bytes))

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self.aborted = True
        self._inner.send_stream.close()  # type: ignore[attr-defined]  # a memory stream has it
        self._inner.receive_stream.close()  # type: ignore[attr-defined]


class Rig:
    """One spliced connection over memory streams."""

    def __init__(self) -> None:
        self.client, near = trio.testing.lockstep_stream_pair()
        self.upstream, far = trio.testing.lockstep_stream_pair()
        self.streams = MemoryStream(near), MemoryStream(far)
        self.transfer = Transfer()

    async def run(self, limits: Limits) -> float:
        """Splice, and return how long it took."""
        began = trio.current_time()
        timeouts = TimeoutQueue()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timeouts.run)
            await PortableSplicer(timeouts).splice(*self.streams, limits, self.transfer)
            nursery.cancel_scope.cancel()
        return trio.current_time() - began


@pytest.fixture
def rig() -> Rig:
    """A connection in virtual time."""
    return Rig()


async def say(stream: MemoryEnd, times: list[float]) -> None:
    """Send a byte at each of ``times``."""
    for time in times:
        await trio.sleep(time - trio.current_time())
        await stream.send_all(b"x")


async def hear(stream: MemoryEnd) -> None:
    try:
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass


async def test_idle_counts_from_the_last_byte_either_way(rig: Rig, autojump_clock: Clock) -> None:
    """Bytes of either side put the end off."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, rig.client, [trio.current_time() + 4])
        nursery.start_soon(say, rig.upstream, [trio.current_time() + 13])
        nursery.start_soon(hear, rig.client)
        nursery.start_soon(hear, rig.upstream)
        assert await rig.run(Limits(idle_timeout=10)) == pytest.approx(23)
    assert rig.transfer.reason is Reason.IDLE
    assert rig.transfer.client_to_upstream == rig.transfer.upstream_to_client == 1
    assert all(stream.aborted for stream in rig.streams)


async def test_a_byte_that_is_not_taken_is_not_activity_for_ever(rig: Rig, autojump_clock: Clock) -> None:
    """Data that a reader never takes does not keep a connection alive."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_and_fail, rig.client)
        assert await rig.run(Limits(idle_timeout=10)) == pytest.approx(10)
    assert rig.transfer.reason is Reason.IDLE


async def say_and_fail(stream: MemoryEnd) -> None:
    await stream.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_lifetime_counts_from_the_start(rig: Rig, autojump_clock: Clock) -> None:
    """A busy connection ends at its maximum lifetime."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, rig.upstream)
        nursery.start_soon(say_until_broken, rig.client)
        assert await rig.run(Limits(idle_timeout=10, max_lifetime=60)) == pytest.approx(60)
    assert rig.transfer.reason is Reason.LIFETIME
    assert trio.current_time() - start < 70


async def say_until_broken(stream: MemoryEnd) -> None:
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x")
            await trio.sleep(1)


async def test_half_close_timeout_counts_from_the_last_byte_after_the_half_close(
    rig: Rig, autojump_clock: Clock
) -> None:
    """A rest that goes on sending lives; one that falls silent is reset after the timeout."""
    start = trio.current_time()

    async def half_close() -> None:
        await trio.sleep(100)
        await rig.client.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(half_close)
        nursery.start_soon(hear, rig.client)
        nursery.start_soon(hear, rig.upstream)
        nursery.start_soon(say, rig.upstream, [start + 104, start + 108])
        assert await rig.run(Limits(half_close_timeout=5)) == pytest.approx(113)
    assert rig.transfer.reason is Reason.HALF_CLOSE_TIMEOUT


async def test_without_limits_a_connection_lives(rig: Rig, autojump_clock: Clock) -> None:
    """With all limits off, a silent connection is left alone."""
    with trio.move_on_after(30 * 24 * 3600) as scope:
        await rig.run(Limits())
    assert scope.cancelled_caught
    assert all(stream.aborted for stream in rig.streams)


async def test_an_end_after_a_reset_is_not_passed_on(rig: Rig, autojump_clock: Clock) -> None:
    """A side whose reset was met by a write may seem to end cleanly when it is read; the other side sees no end."""

    class Reset(MemoryStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "reset")

    class NeverEnds(MemoryStream):
        async def send_eof(self) -> None:
            raise AssertionError("a clean end was claimed")

    near, far = rig.streams
    rig.streams = NeverEnds(near._inner), Reset(far._inner)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run, Limits())
        await rig.client.send_all(b"refused")
        await trio.testing.wait_all_tasks_blocked()
        await rig.upstream.send_eof()
    assert rig.transfer.reason is Reason.RESET_BY_UPSTREAM


# The queue of timeouts.


class Probe(CloseState):
    """A connection that only notes its end."""

    __slots__ = ("ended_at",)

    def finish(self) -> None:
        super().finish()
        self.ended_at = trio.current_time()


@pytest.fixture
async def timeouts(autojump_clock: Clock) -> AsyncIterator[TimeoutQueue]:
    """A running queue in virtual time."""
    timeouts = TimeoutQueue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        yield timeouts
        nursery.cancel_scope.cancel()


async def test_each_connection_ends_at_its_own_time(timeouts: TimeoutQueue, autojump_clock: Clock) -> None:
    """Connections end when they are due, in whatever order they came."""
    start = trio.current_time()
    probes = [Probe(Limits(idle_timeout=seconds), Transfer(), start) for seconds in (30, 10, 20)]
    for probe in probes:
        timeouts.add(probe)
    await trio.sleep(40)
    assert [probe.ended_at - start for probe in probes] == pytest.approx([30, 10, 20])


async def test_activity_between_two_checks_postpones_the_end(
    timeouts: TimeoutQueue, autojump_clock: Clock
) -> None:
    """A connection whose bytes have moved since is checked again at its new deadline."""
    probe = Probe(Limits(idle_timeout=10), Transfer(), trio.current_time())
    timeouts.add(probe)
    await trio.sleep(7)
    probe.received(CLIENT, 1, trio.current_time())
    await trio.sleep(9)
    assert not probe.over
    await trio.sleep(2)
    assert probe.over


async def test_a_discarded_connection_never_ends(timeouts: TimeoutQueue, autojump_clock: Clock) -> None:
    """A connection that ended by itself is left alone."""
    probe = Probe(Limits(idle_timeout=10), Transfer(), trio.current_time())
    timeouts.add(probe)
    timeouts.discard(probe)
    await trio.sleep(20)
    assert not probe.over


async def test_the_queue_keeps_few_entries_of_closed_connections(
    timeouts: TimeoutQueue, autojump_clock: Clock
) -> None:
    """A long timeout does not keep what is long gone."""
    most = 0
    for _ in range(100):
        probes = [Probe(Limits(max_lifetime=24 * 3600), Transfer(), trio.current_time()) for _ in range(100)]
        for probe in probes:
            timeouts.add(probe)
        await trio.sleep(1)
        for probe in probes:
            timeouts.discard(probe)
        most = max(most, len(timeouts._heap))
    assert 1_000 < most < 2_100


async def test_a_short_connection_never_enters_the_heap(
    timeouts: TimeoutQueue, autojump_clock: Clock
) -> None:
    """A connection that is over within moments is never put in the heap, and one that lives on is."""
    brief, lasting = (Probe(Limits(max_lifetime=60), Transfer(), trio.current_time()) for _ in range(2))
    for probe in (brief, lasting):
        timeouts.add(probe)
    await trio.sleep(0.01)
    timeouts.discard(brief)
    await trio.sleep(1)
    assert len(timeouts._heap) == 1
    await trio.sleep(60)
    assert lasting.over
    assert not brief.over


async def test_the_shortest_limits_are_kept_to(timeouts: TimeoutQueue, autojump_clock: Clock) -> None:
    """Limits of milliseconds are kept, also where another connection lives long."""
    start = trio.current_time()
    long, short = (Probe(Limits(idle_timeout=seconds), Transfer(), start) for seconds in (60, 0.02))
    timeouts.add(long)
    timeouts.add(short)
    await trio.sleep(1)
    assert short.ended_at - start == pytest.approx(0.02)


# The rules of ending, without any I/O.


def open_connection() -> Probe:
    return Probe(Limits(), Transfer(), 0)


async def test_what_happens_after_the_end_changes_nothing() -> None:
    """The first failure is the reason; what follows from it is not."""
    probe = open_connection()
    probe.on_read_error(UPSTREAM, ConnectionResetError(errno.ECONNRESET, "reset"))
    ended = probe.transfer.reason, probe.transfer.detail, probe.reset
    probe.on_read_error(CLIENT, OSError(5, "I/O"))
    probe.on_write_error(CLIENT, BrokenPipeError(32, "pipe"), 2)
    probe.on_eof(CLIENT, 2)
    assert ended == (probe.transfer.reason, probe.transfer.detail, probe.reset)
    assert probe.transfer.reason is Reason.RESET_BY_UPSTREAM
    assert probe.reset


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "pipe"), ConnectionResetError(errno.ECONNRESET, "reset")]
)
async def test_a_refusal_after_the_whole_answer_closes_rather_than_resets(error: OSError) -> None:
    """A reset would destroy the part of the answer that the kernel still holds."""
    probe = open_connection()
    probe.on_eof(UPSTREAM, 1)
    probe.on_write_error(UPSTREAM, error, 2)
    assert probe.over
    assert not probe.reset
    assert probe.transfer.reason is Reason.RESET_BY_UPSTREAM


@pytest.mark.parametrize(
    ("error", "reset"),
    [(BrokenPipeError(32, "pipe"), False), (ConnectionResetError(errno.ECONNRESET, "r"), True)],
)
async def test_a_refusal_amid_the_answer_waits_for_its_end(error: OSError, reset: bool) -> None:
    """After EPIPE the end of the answer is a true one; after ECONNRESET it only looks like one."""
    probe = open_connection()
    probe.on_write_error(UPSTREAM, error, 1)
    assert not probe.over
    assert probe.half_closed
    probe.on_eof(UPSTREAM, 2)
    assert probe.over
    assert probe.reset is reset
    assert probe.transfer.reason is Reason.RESET_BY_UPSTREAM


async def test_a_stream_that_tells_no_error_counts_as_reset() -> None:
    """A broken stream that is no socket has no error number; its side is blamed with a reset."""
    probe = open_connection()
    probe.on_read_error(CLIENT, None)
    assert probe.transfer.reason is Reason.RESET_BY_CLIENT
    assert probe.transfer.detail == ""


async def test_no_limit_is_never_due() -> None:
    """Without limits there is no deadline."""
    assert open_connection().next_deadline() == math.inf
