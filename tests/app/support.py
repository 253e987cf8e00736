"""What runs a config in these tests: listeners and streams of a test's own, in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from hvbridge.address.endpoint import Endpoint
from hvbridge.app.forward_set import ForwardSet, first_plan
from hvbridge.config import Config
from hvbridge.proxy.events import Event
from hvbridge.proxy.server import Shutdown, open_server
from hvbridge.splice import Limits, Reason, Transfer
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.options import DialOptions, ListenOptions


def config(*forwards: dict[str, Any], **tables: Any) -> Config:
    """A config of forwards, each with what its test leaves out filled in."""
    filled = [
        {"name": "ssh", "listen": f"tcp://127.0.0.1:{2200 + index}", "connect": "tcp://192.0.2.1:22"}
        | forward
        for index, forward in enumerate(forwards)
    ]
    return Config.model_validate({"forward": filled, **tables})


class Stream:
    """A client, or an upstream."""

    def __init__(self, peer: str = "client") -> None:
        self.peer = peer
        self.client_id = None
        self.vm_id = None
        self.aborted = False

    async def do_handshake(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"SSH-"[:max_bytes]


class Listener:
    """Has the clients that a test lets connect."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.where = str(endpoint)
        self.closed = False
        self._arrive, self._arrivals = trio.open_memory_channel[Stream](100)
        self._waiting: list[Stream] = []

    def connect(self) -> Stream:
        client = Stream()
        self._arrive.send_nowait(client)
        return client

    async def wait_acceptable(self) -> None:
        if not self._waiting:
            self._waiting.append(await self._arrivals.receive())

    def accept_nowait(self, at_most: int) -> list[Stream]:
        taken, self._waiting = self._waiting[:at_most], self._waiting[at_most:]
        return taken

    def close(self) -> None:
        self.closed = True


@dataclass
class Network:
    """Listens and dials as its test wants, and remembers it."""

    vms: None = None
    fail: bool = False
    """Whether a dial raises what no dial should."""
    taken: set[str] = field(default_factory=set)
    """Endpoints that cannot be listened on."""
    down: set[str] = field(default_factory=set)
    """Endpoints that cannot be dialled."""
    listeners: list[Listener] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> list[Listener]:
        if str(endpoint) in self.taken:
            raise ListenError(endpoint, Cause.IN_USE)
        self.listeners.append(Listener(endpoint))
        return [self.listeners[-1]]

    async def dial(self, endpoint: Endpoint, options: DialOptions) -> Stream:
        await trio.lowlevel.checkpoint()
        if self.fail:
            raise LookupError("a bug")
        self.dialled.append(str(endpoint))
        if str(endpoint) in self.down:
            raise DialError(endpoint, Cause.REFUSED)
        return Stream("upstream")

    def connector_nowait(self, endpoint: Endpoint, options: DialOptions) -> Any:
        return lambda: None

    def listener(self, endpoint: str) -> Listener:
        """The listener of an endpoint that is open."""
        (found,) = [one for one in self.listeners if one.where == endpoint and not one.closed]
        return found


class Splicer:
    """Ends each connection when its client is ended by the test, or cancelled."""

    def __init__(self) -> None:
        self.ended: dict[Stream, trio.Event] = {}

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        self.ended[client] = trio.Event()
        await self.ended[client].wait()
        transfer.reason = Reason.EOF


@dataclass
class Running:
    """Forwards that run, and everything around them."""

    forwards: ForwardSet
    network: Network
    splicer: Splicer
    events: list[Event]
    shutdown: Shutdown

    async def connect(self, endpoint: str) -> Stream:
        """Let a client connect, and everything happen that can."""
        client = self.network.listener(endpoint).connect()
        await trio.testing.wait_all_tasks_blocked()
        return client

    def listening(self) -> list[str]:
        """Every endpoint that is listened on."""
        return [listener.where for listener in self.network.listeners if not listener.closed]


@asynccontextmanager
async def running(first: Config, network: Network | None = None) -> AsyncIterator[Running]:
    """Run a config until the end of the block."""
    network = network or Network()
    splicer, events, shutdown = Splicer(), list[Event](), Shutdown(grace=0)
    plan = await first_plan(first, network)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        async with open_server(shutdown) as server:
            forwards = ForwardSet(
                server,
                nursery,
                splicer,  # type: ignore[arg-type]
                network,  # type: ignore[arg-type]
                events.append,
                plan,
            )
            await trio.testing.wait_all_tasks_blocked()
            yield Running(forwards, network, splicer, events, shutdown)
            shutdown.drain.set()
            shutdown.abort.set()
        nursery.cancel_scope.cancel()
