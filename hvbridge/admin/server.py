"""Serves the admin endpoint in a nursery of its caller: its listeners, how many may connect, and its end.

Imports the packages of the extra ``admin``: see `hvbridge.admin`.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import trio

from hvbridge.address.endpoint import Endpoint
from hvbridge.admin.app import build_app
from hvbridge.admin.http import HttpConnection, is_peer_gone
from hvbridge.admin.stats import Statistics
from hvbridge.proxy.control import BridgeControl
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import native_network
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.stream import SocketStream

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
"""At once. Descriptors are for the connections that are forwarded."""
GRACE = 1.0
"""Seconds from a cancellation until responses in progress are aborted."""


async def bind(listen: Endpoint) -> list[Listener]:
    """Bind the listeners of an endpoint; the caller closes them. Raises `ListenError`."""
    return await native_network().listen(listen, ListenOptions(backlog=MAX_CONNECTIONS))


async def serve(
    control: BridgeControl,
    stats: Statistics,
    listen: Endpoint,
    listeners: Sequence[Listener],
    token: str | None,
) -> None:
    """Serve the ``listeners`` of ``listen`` until cancelled. With a ``token``, requests must carry it.

    A cancellation ends event streams at once and gives other responses a second; it never hangs.
    """
    server = _Server(control, stats, listen, token)
    async with trio.open_nursery() as nursery:
        try:
            connections: trio.Nursery = await nursery.start(server.hold_connections)
            await trio.serve_listeners(
                server.serve_connection,
                list(listeners),
                handler_nursery=connections,
            )
        finally:
            server.stopping.set()


class _Server:
    """What the connections of one endpoint share."""

    def __init__(
        self, control: BridgeControl, stats: Statistics, listen: Endpoint, token: str | None
    ) -> None:
        self.stopping = trio.Event()
        self._app = build_app(control, stats, listen, token, self.stopping)
        self._connections: dict[HttpConnection, trio.CancelScope] = {}
        """Those that are open, the oldest first, and what cuts each."""

    async def hold_connections(
        self, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have a nursery for connections, which ends within the grace after ``stopping``, and only then."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as closing:
                async with trio.open_nursery() as connections:
                    task_status.started(connections)
                    await trio.lowlevel.checkpoint()  # who is cancelled while it starts must not wait for it
                    scope.shield = True
                    await self.stopping.wait()
                    for connection in self._connections:
                        connection.close_when_idle()
                    closing.start_soon(self._cut, connections.cancel_scope)
                closing.cancel_scope.cancel()

    async def _cut(self, connections: trio.CancelScope) -> None:
        await trio.sleep(GRACE)
        connections.cancel()

    async def serve_connection(self, stream: SocketStream) -> None:
        """Serve the requests of one connection, and close it."""
        connection = HttpConnection(stream, self._app)
        try:
            self._make_room()
            with trio.CancelScope() as self._connections[connection]:
                await connection.serve()
        except Exception as error:  # one connection's bug must not end the bridge
            if not is_peer_gone(error):
                logger.exception("admin connection failed: %r", error)
        finally:
            stream.abort()
            self._connections.pop(connection, None)

    def _make_room(self) -> None:
        """Where there are too many connections, cut one, so that whoever comes gets an answer.

        It is an idle one where there is one, of the source that has the most, and of these the oldest.
        """
        if len(self._connections) < MAX_CONNECTIONS:
            return
        shares = Counter(connection.source for connection in self._connections)
        victim = min(self._connections, key=lambda one: (not one.is_idle, -shares[one.source]))
        self._connections.pop(victim).cancel()
