"""The gate: places and a rate, waited for or refused, in virtual time."""

import math

import pytest
import trio
import trio.testing

from hvbridge.gate import Gate
from hvbridge.slots import Slots


async def test_places_are_counted_in_each_that_has_them() -> None:
    """A connection takes a place of its forward and one of all forwards, and gives both back."""
    own, everywhere = Slots(2), Slots(3)
    gate = Gate([own, everywhere])
    assert gate.enter() == ""
    assert (own.free, everywhere.free) == (1, 2)
    gate.leave()
    assert (own.free, everywhere.free) == (2, 3)


@pytest.mark.parametrize("full", ["own", "everywhere"])
async def test_without_a_place_it_waits(full: str, autojump_clock: trio.testing.MockClock) -> None:
    """Whichever of the places is used up, nothing more is taken until one is free."""
    places = {"own": Slots(9), "everywhere": Slots(9)}
    places[full].resize(1)
    gate = Gate(list(places.values()))
    assert gate.take(64) == 1
    assert gate.enter() == ""
    assert gate.take(64) == 0
    assert "max_connections" in gate.enter()
    with trio.move_on_after(5) as waiting:
        await gate.wait()
    assert waiting.cancelled_caught
    gate.leave()
    await gate.wait()
    assert gate.take(64) == 1


async def test_one_that_refuses_never_waits() -> None:
    """It takes what comes, and says of each whether there is room."""
    gate = Gate([Slots(1)], refuses=True)
    await gate.wait()
    assert gate.take(64) == 64
    assert gate.enter() == ""
    assert "max_connections" in gate.enter()


async def test_a_rate_allows_a_second_of_it_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A burst of one second's connections passes; then they come as time passes, and quiet saves up no more."""
    gate = Gate([Slots(1000)], rate=4)

    def passed() -> int:
        return next(count for count in range(100) if gate.enter())

    assert passed() == 4
    await trio.sleep(0.5)
    assert passed() == 2
    await trio.sleep(60)
    assert passed() == 4
    assert "rate" in gate.enter()


async def test_a_rate_below_one_a_second_lets_one_in_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However low the rate, the wait is as long as it says and no longer."""
    gate = Gate([Slots(1000)], rate=1 / 60)
    await gate.wait()
    assert gate.enter() == ""
    began = trio.current_time()
    await gate.wait()
    assert trio.current_time() - began == pytest.approx(60)
    assert gate.enter() == ""


async def test_a_limit_that_is_raised_lets_in_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Resizing wakes who waits; lowering below what is taken lets nobody in until enough have left."""
    places = Slots(1)
    gate = Gate([places])
    gate.enter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.wait)
        await trio.testing.wait_all_tasks_blocked()
        places.resize(2)
    gate.enter()
    places.resize(1)
    assert places.free == -1
    gate.leave()
    assert gate.take(64) == 0
    gate.leave()
    assert gate.take(64) == 1


def test_no_rate_is_no_limit() -> None:
    """Without a rate nothing depends on time."""
    assert Gate([Slots(5)], math.inf).take(64) == 5
