"""hyperv endpoints with a VM name: the name is resolved, then the VM is dialled or bound by id."""

from functools import partial
from uuid import UUID

from hvbridge.address.endpoint import NamedHypervEndpoint
from hvbridge.hyperv.guid import VM_WILDCARDS
from hvbridge.hyperv.vms import WSL, VmError
from hvbridge.hyperv.vms.resolver import VmResolver
from hvbridge.text import Problem, nearest, quote
from hvbridge.transport.base import Role, Transport
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.hyperv.rebinding import RebindingListener
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

_WSL_INTERVAL = 5.0
_INTERVAL = 60.0
"""Seconds between lookups of a listener's VM. WSL's VM gets a new id at each start, and the lookup is cheap; another VM
gets one only if it is recreated, and the lookup takes a PowerShell process."""


class NamedHypervTransport:
    """Dials and listens on VMs by name, through a transport that takes ids.

    Without a resolver, this machine has no VM names, and every endpoint is a fault.
    """

    def __init__(self, by_id: Transport, resolver: VmResolver | None) -> None:
        self._by_id = by_id
        self._resolver = resolver

    async def dial(self, endpoint: NamedHypervEndpoint, options: DialOptions) -> SocketStream:
        """Resolve the VM, and connect. Raises `DialError`."""
        if self._resolver is None:
            raise DialError(endpoint, Cause.UNAVAILABLE, problem=self.fault(endpoint, "connect"))
        try:
            vm = await self._resolver.resolve(endpoint.vm)
            try:
                return await self._by_id.dial(endpoint.at(vm), options)
            except DialError as error:
                # WSL's VM, or a VM that was recreated with the same name, may have a new id.
                if error.cause is Cause.NOT_RUNNING:
                    fresh = await self._resolver.refresh(endpoint.vm, vm)
                    if fresh != vm:
                        return await self._by_id.dial(endpoint.at(fresh), options)
                raise
        except VmError as error:
            raise DialError(endpoint, Cause.NAME_UNKNOWN, problem=error.problem) from error
        except DialError as error:
            raise DialError(
                endpoint, error.cause, error.error, error.advice, problem=error.problem
            ) from error

    async def listen(self, endpoint: NamedHypervEndpoint, options: ListenOptions) -> list[Listener]:
        """Resolve the VM, and listen for it. Raises `ListenError`."""
        if self._resolver is None:
            raise ListenError(endpoint, Cause.UNAVAILABLE, problem=self.fault(endpoint, "listen"))
        try:
            vm = await self._resolver.resolve(endpoint.vm)
            (listener,) = await self._by_id.listen(endpoint.at(vm), options)
        except VmError as error:
            raise ListenError(endpoint, Cause.NAME_UNKNOWN, problem=error.problem) from error
        except ListenError as error:
            raise ListenError(
                endpoint, error.cause, error.error, error.advice, problem=error.problem
            ) from error

        async def bind(vm: UUID) -> Listener:
            (listener,) = await self._by_id.listen(endpoint.at(vm), options)
            return listener

        look = partial(self._resolver.look, endpoint.vm)
        interval = _WSL_INTERVAL if endpoint.vm.casefold() == WSL else _INTERVAL
        return [RebindingListener(str(endpoint), vm, listener, look=look, bind=bind, interval=interval)]

    def fault(self, endpoint: NamedHypervEndpoint, role: Role) -> Problem | None:
        """Return why VM names cannot be used here; None if they can."""
        if self._resolver is not None:
            return None
        near = nearest(endpoint.vm, VM_WILDCARDS)
        if near is not None:
            return Problem(
                f"{quote(endpoint.vm)} is a VM name, and only a host knows VM names", f"did you mean {near}?"
            )
        return Problem(
            f"{quote(endpoint.vm)} is a VM name, and only a Hyper-V host knows VM names",
            "write parent or a GUID",
        )
