"""Checks one forward: its listener, its VM, its services, and a dial of its upstream. Sends nothing to the upstream."""

from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import trio

from hvbridge.address.endpoint import (
    Endpoint,
    HypervEndpoint,
    NamedHypervEndpoint,
    SystemdEndpoint,
    TcpEndpoint,
)
from hvbridge.config import Forward
from hvbridge.doctor import CHECKS_OF_CAUSE, Check, Finding, State, ports
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.guid import VM_WILDCARDS, service_text
from hvbridge.hyperv.services import RegistrationError, ServiceRegistry
from hvbridge.hyperv.vms import WSL, Vm, VmDirectory, VmError, VmState, find
from hvbridge.text import quote
from hvbridge.transport.errors import Cause, DialError, ListenError, TransportError
from hvbridge.transport.network import Network
from hvbridge.transport.options import DialOptions, ListenOptions

_LONGEST_DIAL = 10.0
"""Seconds: the default dial timeout. A forward may allow more, but here a user is waiting."""

OnVm = HypervEndpoint | NamedHypervEndpoint


@dataclass(frozen=True)
class Vms:
    """The VMs of this host, or why they could not be listed."""

    listed: list[Vm] | VmError
    wsl: UUID | VmError | None = None
    """The VM of WSL2, if a forward names it."""

    def find(self, endpoint: OnVm) -> Vm | None:
        """Return the VM of ``endpoint``; None for an id that is not listed. Raises `VmError`."""
        if isinstance(endpoint, NamedHypervEndpoint) and endpoint.vm.casefold() == WSL:
            if isinstance(self.wsl, UUID):
                return Vm(WSL, self.wsl, VmState.RUNNING)
            raise self.wsl or VmError("the id of WSL's VM was not looked up")
        if isinstance(self.listed, VmError):
            raise self.listed
        if isinstance(endpoint, NamedHypervEndpoint):
            return find(endpoint.vm, self.listed)
        return next((vm for vm in self.listed if vm.id == endpoint.vm), None)


async def ask_for_vms(directory: VmDirectory | None, forwards: Iterable[Forward]) -> Vms | None:
    """Look up the VMs that ``forwards`` name; None if they name none, or if this machine cannot list VMs."""
    wanted = {endpoint.vm for forward in forwards for endpoint in _on_vms(forward)}
    if directory is None or not wanted:
        return None
    names = {vm.casefold() for vm in wanted if isinstance(vm, str)}
    listed: list[Vm] | VmError = []
    wsl: UUID | VmError | None = None
    if len(wanted) > len(names & {WSL}):
        try:
            listed = await directory.vms()
        except VmError as error:
            listed = error
    if WSL in names:
        try:
            wsl = await directory.wsl_vm_id(start=False)
        except VmError as error:
            wsl = error
    return Vms(listed, wsl)


@dataclass(frozen=True)
class Context:
    """What is known before the forwards are checked."""

    machine: Machine
    network: Network
    vms: Vms | None
    """None if this machine cannot list VMs: a guest, or no Hyper-V."""
    registry: ServiceRegistry | None
    """None if services need no registration."""
    emulated: bool
    register: str
    """The command that registers the services that the config needs."""


async def check_forward(forward: Forward, context: Context) -> list[Finding]:
    """Check one forward; the findings are in the order of a connection's path."""
    known = [*_check_vms(forward, context), *_check_services(forward, context)]
    failed = {finding.check for finding in known if finding.state is State.FAILED}
    found: dict[Check, Finding] = {}

    async def listen() -> None:
        found[Check.LISTEN] = await _check_listen(forward, context, failed)

    async def dial() -> None:
        found[Check.DIAL] = await _check_dial(forward, context, failed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(dial)
    return [found[Check.LISTEN], *known, found[Check.DIAL]]


def _on_vms(forward: Forward) -> list[OnVm]:
    """The endpoints of a forward that are on VMs of this host."""
    return [
        endpoint
        for endpoint in dict.fromkeys((forward.connect, forward.listen))
        if isinstance(endpoint, NamedHypervEndpoint)
        or (isinstance(endpoint, HypervEndpoint) and endpoint.vm not in VM_WILDCARDS.values())
    ]


def _check_vms(forward: Forward, context: Context) -> Iterator[Finding]:
    if context.vms is None:
        return
    seen: set[UUID | str] = set()
    for endpoint in _on_vms(forward):
        if endpoint.vm not in seen:
            seen.add(endpoint.vm)
            yield _check_vm(forward, endpoint, context.vms)


def _check_vm(forward: Forward, endpoint: OnVm, vms: Vms) -> Finding:
    finding = partial(Finding, Check.VM, forward=forward.name)
    try:
        vm = vms.find(endpoint)
    except VmError as error:
        named = isinstance(endpoint, NamedHypervEndpoint)
        state = State.FAILED if named else State.DOUBTFUL
        return finding(state, error.problem.what, error.problem.advice)
    if vm is None:
        summary = f"Hyper-V lists no VM {endpoint.vm}"
        advice = "look up the id with `hvbridge vms`; WSL2's VM is not listed, and is named wsl in endpoints"
        return finding(State.DOUBTFUL, summary, advice)
    who = f"{quote(vm.name)} ({vm.id})"
    match vm.state:
        case VmState.RUNNING:
            return finding(State.OK, f"{who} is running")
        case VmState.OFF | VmState.SAVED | VmState.PAUSED:
            if forward.start and endpoint == forward.connect:
                return finding(State.OK, f"{who} is {vm.state}, and the first connection starts it")
            advice = "start it, or set start = true so that the first connection does"
            return finding(State.FAILED, f"{who} is {vm.state}", advice)
        case VmState.STARTING | VmState.STOPPING:
            return finding(State.DOUBTFUL, f"{who} is {vm.state}", "wait a moment, then run the check again")
        case VmState.UNKNOWN:
            return finding(State.DOUBTFUL, f"{who} is in an unknown state")


def _check_services(forward: Forward, context: Context) -> Iterator[Finding]:
    finding = partial(Finding, Check.SERVICE, forward=forward.name)
    endpoints = (forward.connect, forward.listen)
    services = dict.fromkeys(endpoint.service for endpoint in endpoints if isinstance(endpoint, OnVm))
    if context.registry is None or not services:
        return
    try:
        registered = {service.id: service.name for service in context.registry.services()}
    except RegistrationError as error:
        yield finding(State.DOUBTFUL, str(error))
        return
    for service in services:
        short = service_text(service)
        who = short if short == str(service) else f"{short} ({service})"
        if service in registered:
            yield finding(State.OK, f"{who} is registered as {quote(registered[service])}")
        else:
            advice = f"on the host, run once as administrator: {context.register}"
            yield finding(State.FAILED, f"{who} is not registered", advice)


async def _check_listen(forward: Forward, context: Context, failed: Set[Check]) -> Finding:
    finding = partial(Finding, Check.LISTEN, forward=forward.name)
    endpoint = forward.listen
    if fault := context.network.fault(endpoint, "listen"):
        return finding(State.FAILED, f"{endpoint}: {fault.what}", fault.advice)
    if context.emulated and isinstance(endpoint, OnVm):
        return finding(State.NOT_APPLICABLE, f"{endpoint} is emulated and was not tried")
    if isinstance(endpoint, SystemdEndpoint):
        return finding(State.NOT_APPLICABLE, f"systemd binds {endpoint} (see systemctl list-sockets)")
    located = _located(endpoint, context.vms)
    if located is None:
        return finding(State.NOT_APPLICABLE, f"{endpoint} was not tried, because its VM was not found")
    try:
        listeners = await context.network.listen(located, ListenOptions())
    except ListenError as error:
        if error.cause is Cause.IN_USE:
            holder = await ports.holder(context.machine, located)
            summary = f"{endpoint}: {error.cause}" + (
                f" by {holder}" if holder else ", by an unknown process"
            )
            if holder and not holder.may_be_hvbridge:
                return finding(State.FAILED, summary, error.advice)
            return finding(State.DOUBTFUL, summary, f"unless this config is already running, {error.advice}")
        if isinstance(located, TcpEndpoint) and context.machine.platform == "win32":
            reserved = await ports.excluded_range(context.machine, located.port)
            if reserved is not None:
                summary = f"{endpoint}: Windows reserves the ports {reserved.start}-{reserved.stop - 1}"
                return finding(
                    State.FAILED,
                    summary,
                    "use a port outside this range; Hyper-V picks new ranges at each boot",
                )
        return finding(State.FAILED, f"{endpoint}: {error.why}", _advice(error, failed))
    for listener in listeners:
        listener.close()
    return finding(State.OK, f"{endpoint} is free")


async def _check_dial(forward: Forward, context: Context, failed: Set[Check]) -> Finding:
    finding = partial(Finding, Check.DIAL, forward=forward.name)
    endpoint = forward.connect
    if fault := context.network.fault(endpoint, "connect"):
        return finding(State.FAILED, f"{endpoint}: {fault.what}", fault.advice)
    located = _located(endpoint, context.vms)
    if located is None:
        return finding(State.NOT_APPLICABLE, f"{endpoint} was not tried, because its VM was not found")
    options = DialOptions(min(forward.dial_timeout, _LONGEST_DIAL), connect_mode=forward.connect_mode)
    began = trio.current_time()
    try:
        stream = await context.network.dial(located, options)
    except DialError as error:
        if error.cause is Cause.NOT_RUNNING and forward.start:
            return finding(
                State.NOT_APPLICABLE, f"{endpoint} cannot be reached until its VM has been started"
            )
        return finding(State.FAILED, f"{endpoint}: {error.why}", _advice(error, failed))
    milliseconds = (trio.current_time() - began) * 1000
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_eof()  # a bare close may look like a failure to the peer
    return finding(State.OK, f"{endpoint} connected in {milliseconds:.0f} ms; nothing was sent")


def _located(endpoint: Endpoint, vms: Vms | None) -> Endpoint | None:
    """``endpoint`` with its VM's name replaced by the id; None if there is no such VM."""
    if not isinstance(endpoint, NamedHypervEndpoint):
        return endpoint
    assert vms is not None  # without VMs, `Network.fault` has refused the endpoint
    try:
        vm = vms.find(endpoint)
    except VmError:
        return None
    return None if vm is None else endpoint.at(vm.id)


def _advice(error: TransportError, failed: Set[Check]) -> str:
    """What to do: see the failed check that explains this error, if there is one, else follow the error's advice."""
    explained = [check for check in CHECKS_OF_CAUSE[error.cause] if check in failed]
    return f"first fix what {' and '.join(explained)} reports" if explained else error.advice
