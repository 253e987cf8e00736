"""Starting and stopping a bridge: all listeners or none, drain, and the end at once."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import Endpoint, TcpEndpoint
from hvbridge.proxy import server
from hvbridge.transport.errors import Cause, ListenError
from hvbridge.transport.listener import SocketListener
from hvbridge.transport.network import native_network
from hvbridge.transport.options import ListenOptions


def free_and_taken() -> tuple[socket.socket, TcpEndpoint]:
    """A listening socket, and the endpoint that it has taken."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken, TcpEndpoint("127.0.0.1", taken.getsockname()[1])


async def test_binds_every_listener() -> None:
    """Each wanted endpoint gets its listeners, in order, and a port where it asked for any."""
    anywhere = TcpEndpoint("127.0.0.1", 0)
    bound = await server.bind_all(
        native_network(), [("one", anywhere, ListenOptions()), ("two", anywhere, ListenOptions())]
    )
    for (listener,) in bound:
        assert isinstance(listener, SocketListener)
        assert listener.where == f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
    for (listener,) in bound:
        await listener.aclose()


async def test_binds_none_when_one_cannot_be_bound_and_names_each_that_failed() -> None:
    """Two taken ports are named both, and the port in between is free again."""
    (one, first), (two, second) = free_and_taken(), free_and_taken()
    spare, between = free_and_taken()
    spare.close()
    options = ListenOptions()
    with pytest.raises(server.BindError) as caught:
        await server.bind_all(
            native_network(), [("a", first, options), ("b", between, options), ("c", second, options)]
        )
    assert [name for name, _ in caught.value.failures] == ["a", "c"]
    assert all(error.cause is Cause.IN_USE for _, error in caught.value.failures)
    assert f'forward "a": cannot listen on {first}: the address is in use' in str(caught.value)
    (listener,) = (await server.bind_all(native_network(), [("b", between, options)]))[0]
    await listener.aclose()
    one.close()
    two.close()


@dataclass
class FakeForward:
    """Accepts until cancelled, with connections that end when the test says so, or when cancelled."""

    ends: trio.Event = field(default_factory=trio.Event)
    accepting: bool = False
    outcome: str = ""
    open: dict[int, object] = field(default_factory=dict)

    async def serve(self, listeners: Sequence[object], connections: trio.Nursery) -> None:
        self.accepting = True
        connections.start_soon(self._connection)
        try:
            await trio.sleep_forever()
        finally:
            self.accepting = False

    async def _connection(self) -> None:
        self.outcome = "open"
        try:
            await self.ends.wait()
            self.outcome = "ended"
        except trio.Cancelled:
            self.outcome = f"cut at {trio.current_time() - self._began:g}"
            raise

    def __post_init__(self) -> None:
        self._began = trio.current_time()


async def serve(forward: FakeForward, shutdown: server.Shutdown) -> None:
    async with server.open_server(shutdown) as running:
        running.start(forward, [])  # type: ignore[arg-type]


async def test_drains_until_the_last_connection_ends(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """After the shutdown began nothing is accepted, and the bridge ends with its last connection."""
    forward, shutdown = FakeForward(), server.Shutdown(grace=10)
    async with trio.open_nursery() as serving:
        serving.start_soon(serve, forward, shutdown)
        await trio.testing.wait_all_tasks_blocked()
        shutdown.drain.set()
        await trio.sleep(3)
        assert not forward.accepting
        assert forward.outcome == "open"
        forward.ends.set()
    assert forward.outcome == "ended"
    assert trio.current_time() == pytest.approx(3)


async def test_cuts_what_outlives_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    """When the grace period is over, open connections are cut."""
    forward, shutdown = FakeForward(), server.Shutdown(grace=10)
    async with trio.open_nursery() as serving:
        serving.start_soon(serve, forward, shutdown)
        await trio.testing.wait_all_tasks_blocked()
        shutdown.drain.set()
    assert forward.outcome == "cut at 10"


async def test_an_abort_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """An abort does not wait for the grace period."""
    forward, shutdown = FakeForward(), server.Shutdown(grace=10)
    async with trio.open_nursery() as serving:
        serving.start_soon(serve, forward, shutdown)
        await trio.testing.wait_all_tasks_blocked()
        shutdown.drain.set()
        await trio.sleep(2)
        shutdown.abort.set()
    assert forward.outcome == "cut at 2"


@dataclass
class BrokenNetwork:
    """Fails to listen on everything."""

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> None:
        raise ListenError(endpoint, Cause.OUT_OF_MEMORY)


async def test_a_failure_to_bind_is_a_whole_message() -> None:
    """The message names the forward, the operation, the endpoint, the cause and what to do."""
    endpoint = TcpEndpoint("127.0.0.1", 1)
    with pytest.raises(server.BindError) as caught:
        await server.bind_all(BrokenNetwork(), [("ssh", endpoint, ListenOptions())])  # type: ignore[arg-type]
    assert str(caught.value) == (
        'forward "ssh": cannot listen on tcp://127.0.0.1:1: out of memory for socket buffers; '
        "close other connections, or raise the system's limits"
    )
