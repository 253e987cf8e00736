"""A nursery of forwards: bound before they serve, replaced while they run, and drained at the end.

Owns: the order of start and stop, and whose listeners are whose. Refuses: a single connection (`forward`), signals,
and the config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import trio

from hvbridge.endpoint import Endpoint
from hvbridge.forward import Forward, Record
from hvbridge.transport.errors import ListenError
from hvbridge.transport.network import Network
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.sockets import Listener


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
        close_all(listener for listeners in bound for listener in listeners)
        raise BindError(failures)
    return bound


def close_all(listeners: Iterable[Listener]) -> None:
    """Close listeners without a checkpoint."""
    for listener in listeners:
        listener.close()


@dataclass(eq=False, slots=True)
class Serving:
    """A forward and its listeners, which it closes when it stops unless they are taken from it before."""

    forward: Forward
    listeners: list[Listener]
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def is_draining(self) -> bool:
        """Whether it listens no more, and its connections live on."""
        return self.accepting.cancel_called


class Bridge:
    """Forwards that serve, in one nursery."""

    def __init__(self) -> None:
        self.serving: list[Serving] = []
        """Those that listen, and those that still have connections."""
        self.is_ending = False
        """Whether the shutdown has begun; nothing can be started any more."""
        self._accepting: trio.Nursery
        self._connections: trio.Nursery

    async def run(
        self, shutdown: Shutdown, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until ``shutdown``; the listeners are closed at its beginning, every connection by its end."""
        async with trio.open_nursery() as watching:
            async with trio.open_nursery() as self._connections:
                watching.start_soon(_cancel_after, shutdown.hurry, self._connections)
                async with trio.open_nursery() as self._accepting:
                    task_status.started()
                    await shutdown.begin.wait()
                    self.is_ending = True
                    for serving in self.serving:
                        serving.accepting.cancel()
                self._connections.cancel_scope.deadline = trio.current_time() + shutdown.grace
            watching.cancel_scope.cancel()

    def start(self, forward: Forward, listeners: list[Listener]) -> None:
        """Let ``forward`` serve ``listeners``."""
        serving = Serving(forward, listeners)
        self.serving = [other for other in self.serving if other.forward.open or not other.is_draining]
        self.serving.append(serving)
        self._accepting.start_soon(self._serve, serving)

    def stop(self, forward: Forward, *, keep: bool = False) -> list[Listener]:
        """Let ``forward`` accept no more; its connections live on. Returns its listeners if told to ``keep`` them."""
        for serving in self.serving:
            if serving.forward is forward and not serving.is_draining:
                kept, serving.listeners = (serving.listeners, []) if keep else ([], serving.listeners)
                serving.accepting.cancel()
                close_all(serving.listeners)
                return kept
        return []

    def connections(self) -> list[Record]:
        """All that are open."""
        return [record for serving in self.serving for record in serving.forward.open.values()]

    async def _serve(self, serving: Serving) -> None:
        try:
            with serving.accepting:
                await serving.forward.serve(serving.listeners, self._connections)
        except* trio.ClosedResourceError:  # stopped at the very moment in which a client came
            if not serving.is_draining:
                raise
        finally:
            close_all(serving.listeners)


async def _cancel_after(event: trio.Event, nursery: trio.Nursery) -> None:
    await event.wait()
    nursery.cancel_scope.cancel()
