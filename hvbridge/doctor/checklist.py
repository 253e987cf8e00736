"""Chooses the checks for a machine and a config, and runs them concurrently."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from hvbridge.address.endpoint import HypervEndpoint, VsockEndpoint
from hvbridge.config import Forward
from hvbridge.doctor import Check, Finding, State, linux, windows
from hvbridge.doctor.forwards import Context, ask_for_vms, check_forward
from hvbridge.doctor.loopback import check_connect_mode
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.constants import LAST_PRIVILEGED_VSOCK_PORT
from hvbridge.hyperv.guid import ANY, CHILDREN, port_of_service_id
from hvbridge.hyperv.services import ServiceRegistry
from hvbridge.transport.network import Network


@dataclass(frozen=True)
class Target:
    """What to check."""

    network: Network
    registry: ServiceRegistry | None
    """None if services need no registration."""
    emulator: str = ""
    """The emulator's directory; "" for real Hyper-V."""
    forwards: Sequence[Forward] = ()
    register: str = ""
    """The command that registers the services that the forwards need."""


async def examine(target: Target, machine: Machine) -> list[Finding]:
    """Check the machine and each forward; return the findings in that order."""
    found: dict[int, Sequence[Finding]] = {}

    async def keep(place: int, check: Callable[[], Awaitable[Sequence[Finding]]]) -> None:
        found[place] = await check()

    role = None
    if machine.platform == "win32" and not target.emulator:
        role = await windows.role(machine)
    needs_registry = role is not windows.Role.GUEST
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, 0, partial(_check_machine, target, machine, role))
        context = Context(
            machine,
            target.network,
            await ask_for_vms(target.network.vms, target.forwards),
            target.registry if needs_registry else None,
            bool(target.emulator),
            target.register,
        )
        for place, forward in enumerate(target.forwards, start=1):
            nursery.start_soon(keep, place, partial(check_forward, forward, context))
    return [finding for place in sorted(found) for finding in found[place]]


async def _check_machine(target: Target, machine: Machine, role: windows.Role | None) -> list[Finding]:
    if target.emulator:
        emulated = Finding(Check.EMULATOR, State.OK, f"Hyper-V is emulated in {target.emulator}")
        return [Finding(Check.PYTHON, State.OK, machine.python), emulated]
    if role is not None:
        return await _check_windows(target, machine, role)
    if machine.platform == "linux":
        return await _check_linux(target, machine)
    summary = "no Hyper-V on this system"
    return [
        Finding(Check.PYTHON, State.OK, machine.python),
        Finding(
            Check.GUEST,
            State.NOT_APPLICABLE,
            summary,
            "to emulate it, see [emulator] in the config reference",
        ),
    ]


async def _check_windows(target: Target, machine: Machine, role: windows.Role) -> list[Finding]:
    findings = [windows.check_hyperv(role), await windows.check_rights(machine, role)]
    if "AF_HYPERV" in machine.families:
        python = Finding(Check.PYTHON, State.OK, f"{machine.python}, with Hyper-V sockets")
        findings.append(await check_connect_mode(target.network))
    else:
        summary = f"{machine.python} has no Hyper-V sockets"
        python = Finding(Check.PYTHON, State.FAILED, summary, "run hvbridge on CPython 3.12 or later")
    wildcards = [forward.name for forward in target.forwards if _listens_on(forward, ANY, CHILDREN)]
    if wildcards and role is not windows.Role.GUEST:
        findings.append(await windows.check_wsl2(machine, wildcards))
    return [python, *findings]


async def _check_linux(target: Target, machine: Machine) -> list[Finding]:
    guest = linux.is_guest(machine)
    findings = [Finding(Check.PYTHON, State.OK, machine.python), linux.check_guest(machine)]
    endpoints = [endpoint for forward in target.forwards for endpoint in (forward.listen, forward.connect)]
    if guest:
        findings.append(linux.check_hv_sock(machine))
    if guest or any(isinstance(endpoint, VsockEndpoint) for endpoint in endpoints):
        findings += [linux.check_vsock(machine), linux.check_cid(machine, guest)]
        low = [forward.name for forward in target.forwards if _listens_low(forward)]
        if low:
            findings.append(linux.check_low_ports(machine, low))
    if guest:
        findings.append(await linux.check_sshd(machine))
    return findings


def _listens_on(forward: Forward, *vms: object) -> bool:
    return isinstance(forward.listen, HypervEndpoint) and forward.listen.vm in vms


def _listens_low(forward: Forward) -> bool:
    """Whether a forward listens on a vsock port that requires a capability."""
    match forward.listen:
        case VsockEndpoint(port=port):
            return port <= LAST_PRIVILEGED_VSOCK_PORT
        case HypervEndpoint(service=service):
            vsock_port = port_of_service_id(service)
            return vsock_port is not None and vsock_port <= LAST_PRIVILEGED_VSOCK_PORT
    return False
