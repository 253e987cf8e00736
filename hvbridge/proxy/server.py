"""A nursery of forwards: bound before they serve, replaced while they run, and drained at the end."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from hvbridge.address.endpoint import Endpoint
from hvbridge.proxy.forward import Forward
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.transport.errors import ListenError
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import Network
from hvbridge.transport.options import ListenOptions


class BindError(Exception):
    """Not every listener could be bound, and so none is.

    ``failures`` pairs forwards' names and errors; "" stands for the admin endpoint.
    """

    def __init__(self, failures: Sequence[tuple[str, ListenError]]) -> None:
        self.failures = failures
        self.messages = [
            f'forward "{name}": {error}' if name else f"admin: {error}" for name, error in failures
        ]
        super().__init__("\n".join(self.messages))


@dataclass(slots=True)
class Shutdown:
    """How a server is told to end: ``drain`` to stop accepting, ``abort`` to end at once."""

    grace: float
    """Seconds that connections may live on after ``drain``."""
    drain: trio.Event = field(default_factory=trio.Event)
    abort: trio.Event = field(default_factory=trio.Event)


async def bind_all(
    network: Network, wanted: Iterable[tuple[str, Endpoint, ListenOptions]]
) -> list[list[Listener]]:
    """Bind the listeners of all forwards, or none. The caller closes them. Raises `BindError`."""
    bound: list[list[Listener]] = []
    failures: list[tuple[str, ListenError]] = []
    for name, endpoint, options in wanted:
        try:
            bound.append(await network.listen(endpoint, options))
        except ListenError as error:
            failures.append((name, error))
    if failures:
        close_all(listener for listeners in bound for listener in listeners)
        raise BindError(failures)
    return bound


def close_all(listeners: Iterable[Listener]) -> None:
    """Close listeners without a checkpoint."""
    for listener in listeners:
        listener.close()


@dataclass(eq=False, slots=True)
class ActiveForward:
    """A forward and its listeners, which it closes when it stops unless they are taken from it before."""

    forward: Forward
    listeners: list[Listener]
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def is_draining(self) -> bool:
        """Whether it listens no more, and its connections live on."""
        return self.accepting.cancel_called


class Server:
    """Forwards that serve: one nursery has their accept loops, the other their connections."""

    def __init__(self, accepting: trio.Nursery, connections: trio.Nursery) -> None:
        self.active: list[ActiveForward] = []
        """Those that listen, and those that still have connections."""
        self.is_draining = False
        """Whether the shutdown has begun; nothing can be started any more."""
        self._accepting = accepting
        self._connections = connections

    def start(self, forward: Forward, listeners: list[Listener]) -> None:
        """Let ``forward`` serve ``listeners``."""
        active = ActiveForward(forward, listeners)
        self.active = [other for other in self.active if other.forward.open or not other.is_draining]
        self.active.append(active)
        self._accepting.start_soon(self._serve, active)

    def stop(self, forward: Forward, *, keep: bool = False) -> list[Listener]:
        """Let ``forward`` accept no more; its connections live on. Returns its listeners if told to ``keep`` them."""
        for active in self.active:
            if active.forward is forward and not active.is_draining:
                kept, active.listeners = (active.listeners, []) if keep else ([], active.listeners)
                active.accepting.cancel()
                close_all(active.listeners)
                return kept
        return []

    def drain(self) -> None:
        """Let no forward accept any more."""
        self.is_draining = True
        for active in self.active:
            active.accepting.cancel()

    def is_listening(self, forward: Forward) -> bool:
        """Whether ``forward`` accepts connections."""
        return any(active.forward is forward and not active.is_draining for active in self.active)

    def connections(self) -> list[ConnectionRecord]:
        """All that are open."""
        return [record for active in self.active for record in active.forward.open.values()]

    async def _serve(self, active: ActiveForward) -> None:
        try:
            with active.accepting:
                await active.forward.serve(active.listeners, self._connections)
        except* trio.ClosedResourceError:  # stopped at the very moment in which a client came
            if not active.is_draining:
                raise
        finally:
            close_all(active.listeners)


@asynccontextmanager
async def open_server(shutdown: Shutdown) -> AsyncIterator[Server]:
    """Open a server, whose block is left once ``shutdown`` has drained it, or aborted what was left."""
    async with trio.open_nursery() as watching:
        async with trio.open_nursery() as connections:
            watching.start_soon(_cancel_after, shutdown.abort, connections)
            async with trio.open_nursery() as accepting:
                server = Server(accepting, connections)
                yield server
                await shutdown.drain.wait()
                server.drain()
            connections.cancel_scope.deadline = trio.current_time() + shutdown.grace
        watching.cancel_scope.cancel()


async def _cancel_after(event: trio.Event, nursery: trio.Nursery) -> None:
    await event.wait()
    nursery.cancel_scope.cancel()
