"""Admission: limits and a rate, waited for or refused, and a wait that everything ends, in virtual time."""

import math

import pytest
import trio
import trio.testing

from hvbridge.proxy.admission import Admission, AdmissionPolicy, SharedLimit


def admission(
    max_connections: int = 1000,
    rate: float = math.inf,
    *,
    refuse: bool = False,
    shared: SharedLimit | None = None,
) -> Admission:
    return Admission(AdmissionPolicy(max_connections, rate, refuse=refuse), shared or SharedLimit(1000))


async def wait_and_acquire(waiting: Admission, admitted: list[Admission]) -> None:
    """Do as an accept loop does."""
    await waiting.wait()
    assert waiting.try_acquire() == ""
    admitted.append(waiting)


async def test_a_connection_counts_for_its_forward_and_for_all() -> None:
    """A connection takes one place of its forward and one of all forwards, and gives both back."""
    shared = SharedLimit(3)
    own = admission(2, shared=shared)
    assert own.try_acquire() == ""
    assert (own.in_use, shared.in_use) == (1, 1)
    own.release()
    assert (own.in_use, shared.in_use) == (0, 0)


@pytest.mark.parametrize(("own", "shared", "said"), [(1, 9, "max_connections"), (9, 1, "[limits]")])
async def test_without_a_place_it_waits(
    own: int, shared: int, said: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Whichever limit is reached, nothing more is accepted until a connection closes; it is named."""
    forward = admission(own, shared=SharedLimit(shared))
    assert forward.available(64) == 1
    assert forward.try_acquire() == ""
    assert forward.available(64) == 0
    assert said in forward.try_acquire()
    with trio.move_on_after(5) as waiting:
        await forward.wait()
    assert waiting.cancelled_caught
    forward.release()
    await forward.wait()
    assert forward.available(64) == 1


async def test_one_that_refuses_never_waits() -> None:
    """It accepts what comes, and says of each whether there is room."""
    forward = admission(1, refuse=True)
    await forward.wait()
    assert forward.available(64) == 64
    assert forward.try_acquire() == ""
    assert forward.try_acquire() == "max_connections reached"


async def test_a_rate_allows_a_second_of_it_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A burst of one second's connections passes; then they come as time passes, and quiet saves up no more."""
    forward = admission(rate=4)

    def passed() -> int:
        return next(count for count in range(100) if forward.try_acquire())

    assert passed() == 4
    await trio.sleep(0.5)
    assert passed() == 2
    await trio.sleep(60)
    assert passed() == 4
    assert forward.try_acquire() == "rate exceeded"


async def test_a_rate_below_one_a_second_lets_one_in_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However low the rate, the wait is as long as it says and no longer."""
    forward = admission(rate=1 / 60)
    await forward.wait()
    assert forward.try_acquire() == ""
    began = trio.current_time()
    await forward.wait()
    assert trio.current_time() - began == pytest.approx(60)
    assert forward.try_acquire() == ""


@pytest.mark.parametrize(
    ("policy", "shared"),
    [(AdmissionPolicy(9, 1 / 3600), 1), (AdmissionPolicy(1), 2)],
    ids=["its own rate", "its own limit"],
)
async def test_a_place_is_not_kept_by_who_cannot_take_it(
    policy: AdmissionPolicy, shared: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A freed place of the shared limit goes to another forward where the first waits for a limit of its own."""
    everything, admitted = SharedLimit(shared), list[Admission]()
    stuck, free = Admission(policy, everything), admission(shared=everything)
    open_connections = [stuck, free][:shared]
    assert [forward.try_acquire() for forward in open_connections] == [""] * shared
    for waiting in (stuck, free):
        nursery.start_soon(wait_and_acquire, waiting, admitted)
        await trio.testing.wait_all_tasks_blocked()
    open_connections[-1].release()
    await trio.testing.wait_all_tasks_blocked()
    assert admitted == [free]


@pytest.mark.parametrize(
    "policy",
    [AdmissionPolicy(1000), AdmissionPolicy(1000, 1000.0), AdmissionPolicy(1, refuse=True)],
    ids=["rate off", "higher rate", "refuse"],
)
async def test_a_new_policy_ends_a_wait_for_the_rate(
    policy: AdmissionPolicy, autojump_clock: trio.testing.MockClock
) -> None:
    """A reload counts from now on, though the old rate would have made it wait for an hour."""
    forward = admission(rate=1 / 3600)
    assert forward.try_acquire() == ""
    with trio.fail_after(10):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(forward.wait)
            await trio.testing.wait_all_tasks_blocked()
            forward.update(policy)


async def test_a_new_policy_ends_a_wait_for_a_place(autojump_clock: trio.testing.MockClock) -> None:
    """A limit that is raised lets in who waits; one below what is open lets nobody in until enough have closed."""
    forward = admission(1)
    forward.try_acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward.wait)
        await trio.testing.wait_all_tasks_blocked()
        forward.update(AdmissionPolicy(2))
    forward.try_acquire()
    forward.update(AdmissionPolicy(1))
    forward.release()
    assert forward.available(64) == 0
    forward.release()
    assert forward.available(64) == 1


async def test_a_reload_that_leaves_the_rate_gives_no_new_burst() -> None:
    """Tokens that were used stay used when only another limit changes."""
    forward = admission(rate=2)
    assert forward.try_acquire() == forward.try_acquire() == ""
    forward.update(AdmissionPolicy(5, 2))
    assert forward.try_acquire() == "rate exceeded"


async def test_raising_the_shared_limit_ends_a_wait() -> None:
    """All that wait look again when the limit of all forwards changes."""
    shared, admitted = SharedLimit(0), list[Admission]()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait_and_acquire, admission(shared=shared), admitted)
        await trio.testing.wait_all_tasks_blocked()
        shared.resize(3)
    assert len(admitted) == 3
    assert not shared.waiting


async def test_who_gave_up_waiting_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that was cancelled leaves nothing behind in the shared limit."""
    shared = SharedLimit(0)
    with trio.move_on_after(1):
        await admission(shared=shared).wait()
    assert not shared.waiting


async def test_no_rate_is_no_limit() -> None:
    """Without a rate nothing depends on time."""
    assert admission(5).available(64) == 5
