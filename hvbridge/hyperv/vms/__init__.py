"""VMs by name: what a directory of VMs is, and how a name is matched to a VM.

`powershell` and `wsl` ask Windows, and `resolver` remembers the answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from hvbridge.hyperv.guid import VM_WILDCARDS
from hvbridge.text import Problem, nearest, quote

WSL = "wsl"
"""The name that stands for the utility VM of WSL2, which is not among the VMs that Hyper-V lists."""


class VmState(StrEnum):
    """What a VM is doing; the value is what people read."""

    RUNNING = "running"
    OFF = "off"
    SAVED = "saved"
    PAUSED = "paused"
    STARTING = "starting"
    STOPPING = "stopping"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as its host knows it."""

    name: str
    id: UUID
    state: VmState


class VmError(Exception):
    """VMs could not be looked up, started or saved, or a name has no VM; ``str()`` is what is wrong and the advice."""

    def __init__(self, what: str, advice: str = "") -> None:
        self.problem = Problem(what, advice)
        super().__init__(str(self.problem))


class VmDirectory(Protocol):
    """The VMs of this machine. Every call may take a second or two, and raises `VmError`."""

    async def vms(self) -> list[Vm]:
        """List the VMs, running or not."""

    async def wsl_vm_id(self, *, start: bool) -> UUID:
        """Return the id of WSL2's utility VM, which changes when that VM starts. Asking may start it, if allowed."""

    async def start(self, vm: UUID) -> None:
        """Start or resume a VM; returns once that has been asked for, not once the VM has booted."""

    async def save(self, vm: UUID) -> None:
        """Save a VM's state and stop it."""


def find(name: str, vms: Sequence[Vm]) -> Vm:
    """Return the VM called ``name``: as it is written, or else in any case, as Hyper-V's own tools match.

    Raises `VmError` when there is none, or more than one.
    """
    matches = [vm for vm in vms if vm.name == name]
    matches = matches or [vm for vm in vms if vm.name.casefold() == name.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = ", ".join(str(vm.id) for vm in matches)
        raise VmError(f"{len(matches)} VMs are named {quote(name)}", f"write the id of one: {choices}")
    near = nearest(name, [*(vm.name for vm in vms), *VM_WILDCARDS])
    if near is not None:
        raise VmError(f"there is no VM named {quote(name)}", f"did you mean {quote(near)}?")
    if not vms:
        raise VmError(
            f"there is no VM named {quote(name)}: this machine has no VMs", "create one, or write an id"
        )
    names = ", ".join(sorted(quote(vm.name) for vm in vms)[:10])
    raise VmError(f"there is no VM named {quote(name)}", f"there are {names}")
