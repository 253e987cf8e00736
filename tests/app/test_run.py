"""A whole run: in what order it begins and ends, and that no part of it that fails takes another with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from hvbridge.app.control import Control
from hvbridge.app.run import run
from hvbridge.config import Config
from hvbridge.proxy.events import Event, Ready
from hvbridge.proxy.server import BindError, Shutdown

from .support import Network, Splicer, config

ONE = "tcp://127.0.0.1:2200"


class Bridge:
    """A run of a config, over the network of a test."""

    def __init__(self, first: Config, network: Network) -> None:
        self.config = first
        self.network = network
        self.shutdown = Shutdown(grace=5)
        self.events: list[Event] = []
        self.control: Control | None = None
        self.fails = False
        """Whether handling an event raises."""

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        if self.fails:
            raise OSError(28, "No space left on device")

    async def on_ready(self, control: Control) -> None:
        self.control = control

    async def run(self) -> None:
        await run(
            self.config,
            self.network,  # type: ignore[arg-type]
            self.shutdown,
            self.on_event,
            on_ready=self.on_ready,
            log_lines_dropped=lambda: 7,
        )

    async def connect(self) -> None:
        self.network.listener(ONE).connect()
        await trio.testing.wait_all_tasks_blocked()


async def test_it_is_ready_when_everything_listens_and_ends_when_told(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Ready is the first event; at the end every listener is closed."""
    bridge = Bridge(config({"name": "a"}), Network())
    with trio.fail_after(60):
        async with trio.open_nursery() as serving:
            serving.start_soon(bridge.run)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(bridge.events[0], Ready)
            assert bridge.control is not None
            bridge.shutdown.drain.set()
    assert all(listener.closed for listener in bridge.network.listeners)


async def test_what_cannot_be_bound_is_told_bare() -> None:
    """A BindError comes as it is, in no group, and nothing stays bound."""
    network = Network(taken={"tcp://127.0.0.1:2201"})
    with pytest.raises(BindError):
        await Bridge(config({"name": "a"}, {"name": "b"}), network).run()
    assert all(listener.closed for listener in network.listeners)


@pytest.fixture(autouse=True)
def _splicer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splice streams in memory."""

    @asynccontextmanager
    async def open_splicer() -> AsyncIterator[Splicer]:
        yield Splicer()

    monkeypatch.setattr("hvbridge.app.run.open_splicer", open_splicer)


@pytest.mark.parametrize("failing", ["events", "dials", "accepts", "health"])
async def test_a_part_that_fails_ends_nothing_else(
    failing: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever one collaborator raises, the forwards serve on, and the run ends in good order."""
    network = Network()
    bridge = Bridge(config({"name": "a", "health": {}} if failing == "health" else {"name": "a"}), network)

    def fail(*_: object) -> None:
        raise LookupError("a bug")

    async with trio.open_nursery() as serving:
        serving.start_soon(bridge.run)
        await trio.testing.wait_all_tasks_blocked()
        with monkeypatch.context() as patched:
            if failing == "events":
                bridge.fails = True
                network.down.add("tcp://192.0.2.1:22")  # so that something happens
            elif failing == "accepts":
                patched.setattr(network.listener(ONE), "accept_nowait", fail)
            else:
                patched.setattr(network, "fail", True)
            await bridge.connect()
            await trio.sleep(60)
        network.down.clear()
        await bridge.connect()
        await trio.sleep(1)
        assert bridge.control is not None
        assert [state.state for state in bridge.control.connections()][-1] == "open"
        assert bridge.control.losses().log_lines == 7
        assert (bridge.control.losses().events > 0) is (failing == "events")
        bridge.shutdown.drain.set()
        bridge.shutdown.abort.set()
