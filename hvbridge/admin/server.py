"""Serves the admin endpoint in a nursery of its caller, by Hypercorn.

Owns: listening, how many may connect, and the end: soon after a cancellation, whatever a peer does. Refuses: what is
served (`app`). Imports the packages of the extra ``admin``: see `hvbridge.admin`.

Each connection is Hypercorn's (`TCPServer`, what its trio worker runs for each), the rest of its worker is not used:
it takes no stream of ours, and it shields its sends from cancellation, so that one reader that stops reading would
keep the bridge from ending. Here a send gives up on such a reader, and the end closes every stream.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from hvbridge.address.endpoint import Endpoint
from hvbridge.admin.app import build_app
from hvbridge.admin.stats import Statistics
from hvbridge.proxy.control import BridgeControl
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import native_network
from hvbridge.transport.options import ListenOptions
from hvbridge.transport.stream import SocketStream

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 128
"""At once; the others wait in the backlog. Descriptors are for the connections that are forwarded."""
_STALL = 30.0
"""Seconds that a send may take: a reader that takes nothing for so long is gone, or means harm."""
_GRACE = 1.0
"""Seconds from the cancellation until what is still being sent is cut."""


async def bind(listen: Endpoint) -> list[Listener]:
    """Bind the listeners of an endpoint; the caller closes them. Raises `ListenError`, a sentence for the user."""
    return await native_network().listen(listen, ListenOptions(backlog=_MAX_CONNECTIONS))


async def serve(
    control: BridgeControl,
    stats: Statistics,
    listen: Endpoint,
    listeners: Sequence[Listener],
    token: str | None,
) -> None:
    """Serve the ``listeners`` of ``listen`` until cancelled. With a ``token``, requests must carry it.

    A cancellation ends event streams at once and leaves other responses a second; nothing makes it hang.
    """
    server = _Server(control, stats, listen, token)
    async with trio.open_nursery() as nursery:
        try:
            connections: trio.Nursery = await nursery.start(server.hold_connections)
            limited = [_LimitedListener(listener, server.places) for listener in listeners]
            await trio.serve_listeners(server.serve_connection, limited, handler_nursery=connections)
        finally:
            server.stopping.set()


class _Server:
    """What the connections of one endpoint share."""

    def __init__(
        self, control: BridgeControl, stats: Statistics, listen: Endpoint, token: str | None
    ) -> None:
        self.places = trio.Semaphore(_MAX_CONNECTIONS)
        self.stopping = trio.Event()
        self._config = Config()
        self._config.errorlog = logger
        self._config.include_server_header = False
        self._context = WorkerContext(None)
        app = build_app(control, stats, listen, token, self.stopping)
        self._app: AppWrapper = wrap_app(app, self._config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
        self._streams: set[SocketStream] = set()

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
                    await self._context.terminated.set()  # Hypercorn closes idle connections
                    closing.start_soon(self._cut, connections.cancel_scope)
                closing.cancel_scope.cancel()

    async def _cut(self, connections: trio.CancelScope) -> None:
        await trio.sleep(_GRACE)
        connections.cancel()
        for stream in self._streams:  # for sends that are shielded
            stream.abort()

    async def serve_connection(self, stream: SocketStream) -> None:
        """Serve the requests of one connection, and close it."""
        self._streams.add(stream)
        try:
            server = TCPServer(
                self._app,
                self._config,
                self._context,
                ConnectionState({}),
                stream,  # type: ignore[arg-type]  # takes its place below
            )
            server.stream = _Connection(stream, on_end=server.idle_task.stop)  # type: ignore[assignment]
            await server.run()
        except Exception as error:  # one connection's bug must not end the bridge
            logger.exception("admin connection failed: %r", error)
        finally:
            stream.abort()
            self._streams.discard(stream)
            self.places.release()


class _LimitedListener(trio.abc.Listener[SocketStream]):
    """Accepts when there is a place for one more; whoever serves the stream gives the place back."""

    def __init__(self, listener: Listener, places: trio.Semaphore) -> None:
        self._listener = listener
        self._places = places

    async def accept(self) -> SocketStream:
        await self._places.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._places.release()
            raise

    async def aclose(self) -> None:
        await self._listener.aclose()


class _Connection:
    """A stream as Hypercorn wants it, on which no send waits for ever.

    ``on_end`` is called when the peer sends no more: Hypercorn would keep the connection for its idle time-out.
    """

    def __init__(self, stream: SocketStream, on_end: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._on_end = on_end
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def receive_some(self, max_bytes: int) -> bytes:
        data = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                await self._on_end()
        return data

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(_STALL) as patience:
            await self._stream.send_all(data)
        if patience.cancelled_caught:
            self._stream.abort()
            raise trio.BrokenResourceError("the peer takes no data")
