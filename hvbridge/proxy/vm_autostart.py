"""Starts a VM for a connection that finds it off, and saves it when its last connection has long gone.

What it has not started itself, it does not save. Whether a VM is in use is counted for the connections of every
forward, by the id that was dialled: however a config writes the VM, and whatever a reload changes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import UUID

import trio

from hvbridge.address.endpoint import Endpoint, HypervEndpoint, NamedHypervEndpoint
from hvbridge.hyperv.guid import vm_text
from hvbridge.hyperv.vms import VmDirectory, VmError
from hvbridge.transport.errors import Cause, DialError
from hvbridge.transport.stream import SocketStream

_BOOT_TIME = 30.0
"""Seconds after a start in which a VM that still cannot be reached is booting, and is not started again."""
_RETRY = 1.0
"""Seconds until the next look, where a dial is under way that may be for the VM that is due."""


class FindVm(Protocol):
    """Finds the id of the VM of an endpoint; may start it for that, if ``start``. Raises `VmError`."""

    async def __call__(self, endpoint: Endpoint, *, start: bool) -> UUID: ...


class Lease(Protocol):
    """Marks, as a context manager, that a connection needs its VM."""

    def __enter__(self) -> "Lease": ...
    def __exit__(self, *_: object) -> None: ...
    def settle(self, upstream: SocketStream) -> None:
        """Tell which VM it is, once ``upstream`` has been dialled."""


class _NoLease:
    """The lease of a connection whose upstream is on no VM of this host."""

    def __enter__(self) -> "_NoLease":
        return self

    def __exit__(self, *_: object) -> None: ...
    def settle(self, upstream: SocketStream) -> None:
        """Do nothing."""


_NO_LEASE = _NoLease()


def no_lease() -> Lease:
    """Return a lease that counts nothing."""
    return _NO_LEASE


class VmUse:
    """How many connections each VM has, by its id. ``on_idle`` is called when one may have become idle."""

    def __init__(self, on_idle: Callable[[], None]) -> None:
        self.dialling = 0
        """Connections that need a VM of which it is not known yet which one it is."""
        self.connections: Counter[UUID] = Counter()
        self.idle_since: defaultdict[UUID, float] = defaultdict(trio.current_time)
        """When the last connection of a VM closed, or when it was first asked for."""
        self.on_idle = on_idle

    def lease(self) -> Lease:
        """Return the lease of one connection."""
        return _VmLease(self)


class _VmLease:
    __slots__ = ("_use", "_vm")

    def __init__(self, use: VmUse) -> None:
        self._use = use
        self._vm: UUID | None = None

    def __enter__(self) -> "_VmLease":
        self._use.dialling += 1
        return self

    def settle(self, upstream: SocketStream) -> None:
        if upstream.vm_id is not None:
            self._vm = upstream.vm_id
            self._use.connections[self._vm] += 1
            self._use.dialling -= 1

    def __exit__(self, *_: object) -> None:
        use, vm = self._use, self._vm
        if vm is None:
            use.dialling -= 1
            return
        use.connections[vm] -= 1
        if not use.connections[vm]:
            del use.connections[vm]
            use.idle_since[vm] = trio.current_time()
            use.on_idle()


class VmAutostart:
    """Starts and saves the VMs of ``directory``; `run` must run. ``vm_of`` finds their ids.

    ``on_change`` hears of a VM, as an endpoint writes it, "started" or "saved", or why it could not be saved.
    """

    def __init__(
        self,
        directory: VmDirectory,
        vm_of: FindVm,
        on_change: Callable[[str, str], None],
    ) -> None:
        self._directory = directory
        self._vm_of = vm_of
        self._on_change = on_change
        self._idle_save: Mapping[Endpoint, float] = {}
        self._started: dict[UUID, tuple[str, float]] = {}
        """What has been started here and not saved since: as an endpoint writes it, and when."""
        self._changing: defaultdict[UUID, trio.Lock] = defaultdict(trio.Lock)
        self._changed = trio.Event()
        self.use = VmUse(self._wake)

    def configure(self, idle_save: Mapping[Endpoint, float]) -> None:
        """Save VMs after these seconds without a connection, by the endpoints that may start them.

        Where several mean one VM, the longest counts; a VM that none of them means is not saved. `math.inf` is never.
        """
        self._idle_save = dict(idle_save)
        self._wake()

    async def start(self, endpoint: Endpoint) -> None:
        """Start the VM of ``endpoint``, unless that was done a moment ago. Raises `DialError`."""
        try:
            vm = await self._vm_of(endpoint, start=True)
            async with self._changing[vm]:
                _, at = self._started.get(vm, ("", -math.inf))
                if trio.current_time() - at < _BOOT_TIME:
                    return
                await self._directory.start(vm)
                self._started[vm] = _vm_as_written(endpoint), trio.current_time()
        except VmError as error:
            raise DialError(endpoint, Cause.VM_NOT_STARTED, problem=error.problem) from error
        self.use.idle_since[vm] = trio.current_time()
        self._wake()
        self._on_change(self._started[vm][0], "started")

    async def run(self) -> None:
        """Save each VM when its time has come, until cancelled."""
        while True:
            self._changed = trio.Event()
            next_look = math.inf
            for vm in tuple(self._started):
                next_look = min(next_look, await self._save_if_due(vm))
            with trio.CancelScope(deadline=next_look):
                await self._changed.wait()

    async def _save_if_due(self, vm: UUID) -> float:
        """Save ``vm`` if it is due, and return when to look again."""
        allowed = await self._allowed_idle_time(vm)
        # From here to the save nothing may wait: what is asked here must still be so.
        if self.use.connections[vm] or allowed == math.inf:
            return math.inf
        now = trio.current_time()
        due = self.use.idle_since[vm] + allowed
        if now < due:
            return due
        if self.use.dialling or self._changing[vm].locked():
            return now + _RETRY
        await self._save(vm)
        return math.inf if vm not in self._started else now + allowed

    async def _save(self, vm: UUID) -> None:
        started = name, _ = self._started.pop(vm)
        self._changing[vm].acquire_nowait()  # who finds it off meanwhile starts it again afterwards
        try:
            await self._directory.save(vm)
        except VmError as error:
            self._started[vm] = started
            self.use.idle_since[vm] = trio.current_time()
            self._on_change(name, f"could not be saved: {error}")
        else:
            self._on_change(name, "saved")
        finally:
            self._changing[vm].release()

    async def _allowed_idle_time(self, vm: UUID) -> float:
        allowed = [
            seconds for endpoint, seconds in self._idle_save.items() if await self._is_on(endpoint, vm)
        ]
        return max(allowed, default=math.inf)

    async def _is_on(self, endpoint: Endpoint, vm: UUID) -> bool:
        try:
            return await self._vm_of(endpoint, start=False) == vm
        except VmError:
            return False

    def _wake(self) -> None:
        self._changed.set()


def _vm_as_written(endpoint: Endpoint) -> str:
    assert isinstance(endpoint, HypervEndpoint | NamedHypervEndpoint)  # no other may have `start`
    return vm_text(endpoint.vm) if isinstance(endpoint, HypervEndpoint) else endpoint.vm
