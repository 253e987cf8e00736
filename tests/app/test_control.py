"""What a running bridge tells of itself, and does when asked."""

import pytest
import trio
import trio.testing

from hvbridge.app.control import Control
from hvbridge.app.reload import Reloader
from hvbridge.splice import Reason

from .support import Network, Running, config, running

ONE = "tcp://127.0.0.1:2200"


def control(at_work: Running) -> Control:
    return Control(at_work.forwards, Reloader(at_work.forwards, None, at_work.events.append))


async def test_a_forward_as_it_is() -> None:
    """Where it listens, its upstream, and how many connections there are, of how many."""
    async with running(config({"name": "a", "max_connections": 7})) as at_work:
        asked = control(at_work)
        (before,) = asked.forwards()
        assert (before.state, before.upstream, before.health) == ("listening", "unknown", "")
        await at_work.connect(ONE)
        (after,) = asked.forwards()
        assert (after.listen, after.connect) == ([ONE], "tcp://192.0.2.1:22")
        assert (after.upstream, after.connections, after.max_connections) == ("up", 1, 7)


async def test_an_upstream_that_is_down_says_why() -> None:
    """The cause is told for as long as it is down."""
    async with running(config({"name": "a"}), Network(down={"tcp://192.0.2.1:22"})) as at_work:
        await at_work.connect(ONE)
        (state,) = control(at_work).forwards()
        assert (state.upstream, state.upstream_cause) == ("down", "the connection was refused")


@pytest.mark.parametrize(("down", "ready", "health"), [(False, True, "passing"), (True, False, "failing")])
async def test_it_is_ready_when_it_listens_and_its_health_checks_pass(
    down: bool, ready: bool, health: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A failing health check, or a forward that drains, makes it not ready."""
    network = Network(down={"tcp://192.0.2.1:22"} if down else set())
    async with running(config({"name": "a", "health": {}}), network) as at_work:
        asked = control(at_work)
        assert asked.is_ready() is ready
        assert asked.forwards()[0].health == health
        assert asked.drain("a")
        assert not asked.is_ready()
        assert asked.forwards()[0].state == "draining"


async def test_connections_by_forward() -> None:
    """All connections, or those of one forward, with their ages."""
    async with running(config({"name": "a"}, {"name": "b"})) as at_work:
        await at_work.connect(ONE)
        await at_work.connect("tcp://127.0.0.1:2201")
        asked = control(at_work)
        assert [state.forward for state in asked.connections()] == ["a", "b"]
        (only,) = asked.connections("b")
        assert (only.forward, only.peer, only.state) == ("b", "client", "open")


async def test_what_is_not_there_cannot_be_closed_or_drained() -> None:
    """An unknown id, or name, is told apart from one that is there."""
    async with running(config({"name": "a"})) as at_work:
        asked = control(at_work)
        assert not asked.drain("b")
        assert not asked.close(10**9)


async def test_quiet_counts_from_the_last_close(autojump_clock: trio.testing.MockClock) -> None:
    """It is quiet from the beginning, never while a connection is open, and then since the last close."""
    async with running(config({"name": "a"})) as at_work:
        asked = control(at_work)
        assert asked.quiet_since() == pytest.approx(trio.current_time())
        await trio.sleep(5)
        client = await at_work.connect(ONE)
        assert asked.quiet_since() is None
        at_work.splicer.ended[client].set()
        await trio.testing.wait_all_tasks_blocked()
        assert asked.quiet_since() == pytest.approx(5)


async def test_a_connection_that_is_dialled_can_be_closed() -> None:
    """Closing counts from when the dial has ended."""
    async with running(config({"name": "a"})) as at_work:
        at_work.network.listener(ONE).connect()
        asked = control(at_work)
        while not (connections := asked.connections()):
            await trio.lowlevel.checkpoint()
        assert connections[0].state == "dialling"
        assert asked.close(connections[0].id)
        await trio.testing.wait_all_tasks_blocked()
        assert at_work.events[0].record.transfer.reason is Reason.CLOSED_BY_ADMIN  # type: ignore[union-attr]
