"""Reaching an upstream: in turn, again while that is worth it, by starting its VM. In virtual time."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import HypervEndpoint
from hvbridge.proxy.upstream import Dialer, UpstreamState
from hvbridge.transport.errors import Cause, DialError

VM = uuid.UUID(int=5)
UPSTREAM = HypervEndpoint(VM, uuid.UUID(int=6))


@dataclass
class Upstream:
    """Fails with a cause until a time, then answers; remembers when it was dialled."""

    up_at: float = 0.0
    cause: Cause = Cause.NOT_RUNNING
    dialled: list[float] = field(default_factory=list)

    async def dial(self) -> object:
        self.dialled.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if trio.current_time() < self.up_at:
            raise DialError(UPSTREAM, self.cause)
        return self


Make = Callable[..., Dialer]


@pytest.fixture
def make() -> Make:
    def make(upstream: Upstream, wait: float = 60.0, **more: object) -> Dialer:
        options = {"dial_timeout": 10.0, "max_pending": 64, "jitter": lambda low, high: high} | more
        return Dialer(UPSTREAM, upstream.dial, wait=wait, **options)  # type: ignore[arg-type]

    return make


async def test_a_dial_that_need_not_wait_takes_no_turn(make: Make) -> None:
    """What connects at once does so though every turn is taken; only where it must wait it is dialled in turn."""
    upstream, at_once = Upstream(), object()
    assert await make(upstream, max_pending=0, connect_nowait=lambda: at_once).dial() is at_once
    assert upstream.dialled == []
    assert await make(upstream, connect_nowait=lambda: None).dial() is upstream


async def test_a_failure_at_once_is_tried_again(make: Make, autojump_clock: trio.testing.MockClock) -> None:
    """A service that is not there yet is waited for, however its absence was told."""

    def refuse() -> None:
        raise DialError(UPSTREAM, Cause.REFUSED)

    upstream = Upstream()
    assert await make(upstream, connect_nowait=refuse).dial() is upstream
    with pytest.raises(DialError):
        await make(upstream, wait=0.0, connect_nowait=refuse).dial()


async def test_dials_at_once_are_bounded(make: Make, autojump_clock: trio.testing.MockClock) -> None:
    """Above max_pending a dial waits its turn, at most for the dial timeout."""
    pending = 0

    async def hang() -> object:
        nonlocal pending
        pending += 1
        await trio.sleep_forever()

    dialer = Dialer(UPSTREAM, hang, dial_timeout=10, max_pending=2)  # type: ignore[arg-type]
    failures: list[str] = []

    async def dial() -> None:
        try:
            await dialer.dial()
        except DialError as error:
            failures.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(dial)
        await trio.sleep(10.5)
        assert pending == 2
        assert len(failures) == 3
        assert "too many dials are pending" in failures[0]
        nursery.cancel_scope.cancel()


async def test_without_wait_the_first_failure_counts(
    make: Make, autojump_clock: trio.testing.MockClock
) -> None:
    """wait is off by default: the client is told at once."""
    upstream = Upstream(up_at=1)
    with pytest.raises(DialError):
        await make(upstream, wait=0).dial()
    assert upstream.dialled == [0]


@pytest.mark.parametrize("cause", [Cause.NOT_RUNNING, Cause.NOBODY_LISTENING, Cause.REFUSED])
async def test_waits_until_the_service_answers(
    make: Make, cause: Cause, autojump_clock: trio.testing.MockClock
) -> None:
    """A cause that a boot mends is dialled again, with growing pauses, until the service answers."""
    upstream = Upstream(up_at=20, cause=cause)
    assert await make(upstream).dial() is upstream
    pauses = [later - earlier for earlier, later in zip(upstream.dialled, upstream.dialled[1:], strict=False)]
    assert pauses[:6] == pytest.approx([0.25, 0.5, 1, 2, 4, 5])
    assert 20 <= upstream.dialled[-1] <= 25


async def test_gives_up_when_the_time_is_over(make: Make, autojump_clock: trio.testing.MockClock) -> None:
    """After wait the last failure is told."""
    upstream = Upstream(up_at=1000)
    with pytest.raises(DialError) as caught:
        await make(upstream, wait=60).dial()
    assert caught.value.cause is Cause.NOT_RUNNING
    assert trio.current_time() == pytest.approx(60)


@pytest.mark.parametrize("cause", [Cause.NOT_PERMITTED, Cause.NAME_UNKNOWN, Cause.UNAVAILABLE, Cause.UNKNOWN])
async def test_what_does_not_pass_is_told_at_once(
    make: Make, cause: Cause, autojump_clock: trio.testing.MockClock
) -> None:
    """A missing right, or a name that means nothing, is not waited for."""
    with pytest.raises(DialError):
        await make(Upstream(up_at=5, cause=cause)).dial()
    assert trio.current_time() == 0


async def test_a_waiting_dial_gives_its_turn_to_others(
    make: Make, autojump_clock: trio.testing.MockClock
) -> None:
    """Between two tries a connection holds no dial slot."""
    upstream = Upstream(up_at=30)
    dialer = make(upstream, max_pending=1)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(dialer.dial)
    assert len([when for when in upstream.dialled if when < 0.1]) == 3


async def test_a_change_is_told_once(make: Make, autojump_clock: trio.testing.MockClock) -> None:
    """However many connections wait, down is told once, and up once."""
    told: list[DialError | None] = []
    upstream = Upstream(up_at=10)
    dialer = make(upstream, state=UpstreamState(told.append))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(dialer.dial)
    assert [error and error.cause for error in told] == [Cause.NOT_RUNNING, None]


@pytest.mark.parametrize("cause", [Cause.OUT_OF_DESCRIPTORS, Cause.OUT_OF_MEMORY])
async def test_our_own_want_is_no_change_of_the_upstream(
    make: Make, cause: Cause, autojump_clock: trio.testing.MockClock
) -> None:
    """When this process is out of something, nothing is said about the upstream."""
    told: list[DialError | None] = []
    with pytest.raises(DialError):
        await make(Upstream(up_at=5, cause=cause), wait=0, state=UpstreamState(told.append)).dial()
    assert told == []


async def test_a_vm_that_is_off_is_started(make: Make, autojump_clock: trio.testing.MockClock) -> None:
    """Where the VM does not run, it is started and waited for."""
    upstream = Upstream(up_at=float("inf"))

    async def start() -> None:
        upstream.up_at = min(upstream.up_at, trio.current_time() + 10)

    assert await make(upstream, start_vm=start).dial() is upstream


async def test_a_vm_that_cannot_be_started_ends_the_wait(
    make: Make, autojump_clock: trio.testing.MockClock
) -> None:
    """A failed start is told at once, and not tried again."""

    async def start() -> None:
        raise DialError(UPSTREAM, Cause.VM_NOT_STARTED)

    with pytest.raises(DialError) as caught:
        await make(Upstream(up_at=float("inf")), start_vm=start).dial()
    assert caught.value.cause is Cause.VM_NOT_STARTED
    assert trio.current_time() < 1
