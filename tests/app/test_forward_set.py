"""The forwards of a config, and how they become those of another: what is bound, kept, taken over and left."""

import pytest
import trio
import trio.testing

from hvbridge.app.forward_set import first_plan
from hvbridge.proxy.events import ConnectionClosed, UpstreamChanged
from hvbridge.proxy.server import BindError

from .support import Network, Running, config, running

ONE, TWO, THREE = (f"tcp://127.0.0.1:{port}" for port in (2200, 2201, 2202))


async def reload(at_work: Running, *forwards: dict[str, object], **tables: object) -> str:
    """Make the forwards those of another config, and return what changed."""
    plan = await at_work.forwards.plan(config(*forwards, **tables))
    change = at_work.forwards.apply(plan)
    await trio.testing.wait_all_tasks_blocked()
    return change


async def test_it_listens_as_the_config_says() -> None:
    """Each forward listens, and a connection is carried to where its config says."""
    async with running(config({"name": "a"}, {"name": "b", "connect": "tcp://192.0.2.2:22"})) as at_work:
        assert at_work.listening() == [ONE, TWO]
        assert [bound.name for bound in at_work.forwards.bound()] == ["a", "b"]
        await at_work.connect(TWO)
        assert at_work.network.dialled == ["tcp://192.0.2.2:22"]


async def test_everything_is_bound_or_nothing() -> None:
    """A listener that cannot be bound leaves none of the others, and names its forward."""
    network = Network(taken={TWO})
    with pytest.raises(BindError, match='forward "b"'):
        await first_plan(config({"name": "a"}, {"name": "b"}), network)  # type: ignore[arg-type]
    assert [listener.closed for listener in network.listeners] == [True]


async def test_a_forward_that_stays_keeps_its_listener_and_its_connections() -> None:
    """Others come and go; nothing of it is bound again, and what is open stays open."""
    async with running(config({"name": "a"})) as at_work:
        client = await at_work.connect(ONE)
        assert await reload(at_work, {"name": "a"}, {"name": "b"}) == "added: b"
        assert await reload(at_work, {"name": "a"}) == "removed: b"
        assert await reload(at_work, {"name": "a"}) == "no change"
        assert at_work.listening() == [ONE]
        assert len(at_work.network.listeners) == 2
        assert not client.aborted


async def test_a_plan_that_is_not_applied_changes_nothing() -> None:
    """What was bound for it is closed with it."""
    async with running(config({"name": "a"})) as at_work:
        plan = await at_work.forwards.plan(config({"name": "b"}, {"name": "c"}))
        plan.close()
        assert at_work.listening() == [ONE]
        assert list(at_work.forwards.running) == ["a"]


async def test_a_plan_that_cannot_be_bound_changes_nothing() -> None:
    """The error names the forward, and everything goes on."""
    async with running(config({"name": "a"}), Network(taken={TWO})) as at_work:
        with pytest.raises(BindError, match='forward "b"'):
            await at_work.forwards.plan(config({"name": "a"}, {"name": "b"}))
        await at_work.connect(ONE)
        assert len(at_work.forwards.server.connections()) == 1


async def test_another_name_takes_over_the_listener() -> None:
    """Renaming a forward closes no listener; its connections of before drain."""
    async with running(config({"name": "a"})) as at_work:
        client = await at_work.connect(ONE)
        assert await reload(at_work, {"name": "b"}) == "added: b; removed: a"
        assert len(at_work.network.listeners) == 1
        await at_work.connect(ONE)
        assert [record.forward for record in at_work.forwards.server.connections()] == ["a", "b"]
        assert not client.aborted


async def test_a_forward_that_moves_listens_there_and_no_longer_here() -> None:
    """The new listener is bound before the old one is closed."""
    async with running(config({"name": "a"})) as at_work:
        assert await reload(at_work, {"name": "a", "listen": THREE}) == "changed: a"
        assert at_work.listening() == [THREE]


async def test_new_settings_are_for_new_connections() -> None:
    """A changed upstream is dialled from now on, and its state begins anew."""
    async with running(config({"name": "a"}), Network(down={"tcp://192.0.2.1:22"})) as at_work:
        await at_work.connect(ONE)
        assert at_work.forwards.running["a"].upstream.error is not None
        assert await reload(at_work, {"name": "a", "connect": "tcp://192.0.2.9:22"}) == "changed: a"
        assert not at_work.forwards.running["a"].upstream.is_known
        await at_work.connect(ONE)
        assert at_work.network.dialled == ["tcp://192.0.2.1:22", "tcp://192.0.2.9:22"]


async def test_a_rate_that_is_lifted_lets_in_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    """A reload counts from now on, though the accept loop waits for the old rate."""
    async with running(config({"name": "a", "rate": "1/h"})) as at_work:
        await at_work.connect(ONE)
        await at_work.connect(ONE)
        assert len(at_work.forwards.server.connections()) == 1
        await reload(at_work, {"name": "a"})
        assert len(at_work.forwards.server.connections()) == 2


async def test_refuse_takes_effect_while_a_client_waits() -> None:
    """With when_full = "refuse", who waits in the backlog is refused at once."""
    async with running(config({"name": "a", "max_connections": 1})) as at_work:
        await at_work.connect(ONE)
        waiting = await at_work.connect(ONE)
        assert not waiting.aborted
        await reload(at_work, {"name": "a", "max_connections": 1, "when_full": "refuse"})
        assert waiting.aborted


async def test_a_drained_forward_listens_again_after_a_reload() -> None:
    """A forward that was told to drain is bound anew by the next reload."""
    async with running(config({"name": "a"})) as at_work:
        at_work.forwards.server.stop(at_work.forwards.running["a"].forward)
        assert at_work.listening() == []
        assert await reload(at_work, {"name": "a"}) == "changed: a"
        assert at_work.listening() == [ONE]


async def test_a_health_check_comes_and_goes(autojump_clock: trio.testing.MockClock) -> None:
    """It runs as the config of the moment says, and no longer."""
    async with running(config({"name": "a", "health": {"interval": 10}})) as at_work:
        assert at_work.forwards.running["a"].health is not None
        assert len(at_work.network.dialled) == 1
        await reload(at_work, {"name": "a"})
        assert at_work.forwards.running["a"].health is None
        await trio.sleep(100)
        assert len(at_work.network.dialled) == 1


async def test_what_happens_is_an_event() -> None:
    """Closings and changes of an upstream are passed on, and the last close is remembered."""
    async with running(config({"name": "a"})) as at_work:
        client = await at_work.connect(ONE)
        at_work.splicer.ended[client].set()
        await trio.testing.wait_all_tasks_blocked()
        at_work.network.down.add("tcp://192.0.2.1:22")
        await at_work.connect(ONE)
        kinds = [type(event) for event in at_work.events]
        assert kinds == [ConnectionClosed, UpstreamChanged, ConnectionClosed]


async def test_the_limit_of_all_forwards_is_shared() -> None:
    """[limits] counts the connections of every forward, and a reload changes it."""
    limits = {"max_connections": 1}
    async with running(config({"name": "a"}, {"name": "b"}, limits=limits)) as at_work:
        await at_work.connect(ONE)
        await at_work.connect(TWO)
        assert len(at_work.forwards.server.connections()) == 1
        await reload(at_work, {"name": "a"}, {"name": "b"}, limits={"max_connections": 2})
        assert len(at_work.forwards.server.connections()) == 2
