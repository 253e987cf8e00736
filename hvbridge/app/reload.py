"""Reads the config again and makes its forwards run; where anything is wrong with it, nothing changes."""

from collections.abc import Callable

import trio

from hvbridge.app.forward_set import ForwardSet, ReloadPlan
from hvbridge.config import Config, ConfigError
from hvbridge.proxy.control import ReloadError
from hvbridge.proxy.events import EventHandler, Reloaded, ReloadFailed
from hvbridge.proxy.server import BindError

_FIXED = ("admin", "emulator")
"""Tables of the config that take a restart."""


class Reloader:
    """Reloads what ``load`` reads, one at a time. Without ``load`` there is no file to read again."""

    def __init__(
        self, forwards: ForwardSet, load: Callable[[], Config] | None, on_event: EventHandler
    ) -> None:
        self._forwards = forwards
        self._load = load
        self._on_event = on_event
        self._reloading = trio.Lock()

    async def reload(self) -> str:
        """Read the config again, make its forwards run, and return what changed. Raises `ReloadError`."""
        async with self._reloading:
            try:
                plan = await self._plan()
            except ReloadError as error:
                self._on_event(ReloadFailed(error.faults))
                raise
            change = self._forwards.apply(plan)
            self._on_event(Reloaded(change))
            return change

    async def _plan(self) -> ReloadPlan:
        if self._load is None:
            raise ReloadError(["there is no config file to read again"])
        try:
            config = self._load()
        except ConfigError as error:
            raise ReloadError([str(fault) for fault in error.faults]) from error
        except ValueError as error:  # as where the admin token can no longer be read
            raise ReloadError([str(error)]) from error
        running = self._forwards.config
        if changed := [name for name in _FIXED if getattr(config, name) != getattr(running, name)]:
            raise ReloadError([f"[{name}] has changed; that takes a restart" for name in changed])
        try:
            plan = await self._forwards.plan(config)
        except BindError as error:
            raise ReloadError(error.messages) from error
        if self._forwards.server.is_draining:
            plan.close()
            raise ReloadError(["hvbridge is ending"])
        return plan
