"""Runs a config until it is told to end: everything is bound before anything serves, and closed at the end."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import trio

from hvbridge.app.admin import AdminEndpoint
from hvbridge.app.control import Control
from hvbridge.app.forward_set import ForwardSet, first_plan
from hvbridge.app.reload import Reloader
from hvbridge.config import Config
from hvbridge.proxy.background import run_guarded
from hvbridge.proxy.control import Losses
from hvbridge.proxy.events import EventBus, EventHandler, Ready
from hvbridge.proxy.server import Shutdown, open_server
from hvbridge.splice import open_splicer
from hvbridge.transport.network import Network


async def run(
    config: Config,
    network: Network,
    shutdown: Shutdown,
    on_event: EventHandler,
    *,
    load: Callable[[], Config] | None = None,
    on_ready: Callable[[Control], Awaitable[None]] | None = None,
    log_lines_dropped: Callable[[], int] = lambda: 0,
) -> None:
    """Run every forward of ``config`` until ``shutdown``. Raises `BindError` before it is ready.

    ``load`` reads the config anew, for a reload. ``on_ready`` runs beside the forwards from when they are ready, and is
    cancelled when they have ended. ``log_lines_dropped`` counts what the log has lost.

    Raises ValueError as `check_admin`.
    """
    admin = None if config.admin is None else AdminEndpoint(config.admin)
    events = EventBus(on_event) if admin is None else EventBus(on_event, admin.on_event)
    async with AsyncExitStack() as bound:
        plan = await first_plan(config, network)
        bound.callback(plan.close)
        if admin is not None:
            await admin.bind()
            bound.callback(admin.close)
        async with open_splicer() as splicer, trio.open_nursery() as nursery:
            async with open_server(shutdown) as server:
                forwards = ForwardSet(server, nursery, splicer, network, events, plan)
                control = Control(
                    forwards,
                    Reloader(forwards, load, events),
                    lambda: Losses(log_lines_dropped(), events.failures),
                )
                if admin is not None:
                    nursery.start_soon(run_guarded, "the admin endpoint", partial(admin.serve, control))
                events(Ready(forwards.bound()))
                if on_ready is not None:
                    nursery.start_soon(on_ready, control)
            nursery.cancel_scope.cancel()
