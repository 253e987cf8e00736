"""A nursery of forwards: all bound before any serves, and drained at the end.

Owns: the order of start and stop. Refuses: a single connection (`forward`), signals, and the config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import trio

from hvbridge.endpoint import Endpoint
from hvbridge.forward import Forward
from hvbridge.transport.errors import ListenError
from hvbridge.transport.network import Network
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.sockets import Listener


class BindError(Exception):
    """Not every listener could be bound, and so none is. ``failures`` pairs forwards' names and errors."""

    def __init__(self, failures: Sequence[tuple[str, ListenError]]) -> None:
        self.failures = failures
        self.messages = [f'forward "{name}": {error}' for name, error in failures]
        super().__init__("\n".join(self.messages))


@dataclass(slots=True)
class Shutdown:
    """How a bridge is told to end: ``begin`` to stop accepting and drain, ``hurry`` to end at once."""

    grace: float
    """Seconds that connections may live on after ``begin``."""
    begin: trio.Event = field(default_factory=trio.Event)
    hurry: trio.Event = field(default_factory=trio.Event)


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
        for listener in (listener for listeners in bound for listener in listeners):
            listener.close()
        raise BindError(failures)
    return bound


async def serve(pairs: Sequence[tuple[Forward, Sequence[Listener]]], shutdown: Shutdown) -> None:
    """Serve until ``shutdown``; the listeners are closed at its beginning, every connection by its end."""
    async with trio.open_nursery() as watching:
        async with trio.open_nursery() as connections:
            watching.start_soon(_cancel_after, shutdown.hurry, connections)
            async with trio.open_nursery() as accepting:
                for forward, listeners in pairs:
                    accepting.start_soon(forward.serve, listeners, connections)
                await shutdown.begin.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + shutdown.grace
        watching.cancel_scope.cancel()


async def _cancel_after(event: trio.Event, nursery: trio.Nursery) -> None:
    await event.wait()
    nursery.cancel_scope.cancel()
