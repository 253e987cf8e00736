"""Starts a VM for the first connection that finds it off, and saves it when its last has long gone.

Owns: what it has started itself; it saves nothing else. Refuses: waiting until a VM has booted (`dialer` does).
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from uuid import UUID

import trio

from hvbridge.endpoint import Endpoint
from hvbridge.transport.errors import Cause, DialError
from hvbridge.vms import VmDirectory, VmError

_FRESH_START = 30.0
"""Seconds after a start in which a VM that still cannot be reached is booting, and is not started again."""


class VmPower(AbstractContextManager[None]):
    """One VM, for all forwards that may start it. ``vm`` finds its id, which its name may change.

    ``on_change`` hears "started" and "saved" when either has been done, or what failed.
    """

    def __init__(
        self,
        upstream: Endpoint,
        vm: Callable[[], Awaitable[UUID]],
        directory: VmDirectory,
        *,
        idle_save: float,
        on_change: Callable[[str], None],
    ) -> None:
        self._upstream = upstream
        self._vm = vm
        self._directory = directory
        self.idle_save = idle_save
        """Seconds; may be changed, and counts from the next time that the last connection has gone."""
        self._on_change = on_change
        self._starting = trio.Lock()
        self._started = -math.inf
        self._is_ours = False
        self._connections = 0
        self._idle = trio.Event()

    async def start(self) -> None:
        """Start the VM, unless that was done a moment ago. Raises `DialError`."""
        async with self._starting:
            if trio.current_time() - self._started < _FRESH_START:
                return
            try:
                await self._directory.start(await self._vm())
            except VmError as error:
                raise DialError(self._upstream, Cause.NOT_PERMITTED, advice=str(error)) from error
            self._started = trio.current_time()
            self._is_ours = True
            self._on_change("started")

    def __enter__(self) -> None:
        """Keep the VM from being saved while a connection lives; any number may."""
        self._connections += 1

    def __exit__(self, *_: object) -> None:
        self._connections -= 1
        if not self._connections:
            self._idle.set()

    async def save_when_idle(self) -> None:
        """Save the VM whenever the time has come, until cancelled."""
        while True:
            await self._idle.wait()
            self._idle = trio.Event()
            if self.idle_save == math.inf:
                continue
            await trio.sleep(self.idle_save)
            if self._is_ours and not self._connections and not self._idle.is_set():
                await self._save()

    async def _save(self) -> None:
        try:
            await self._directory.save(await self._vm())
        except VmError as error:
            self._on_change(f"could not be saved: {error}")
        else:
            self._is_ours = False
            self._started = -math.inf
            self._on_change("saved")
