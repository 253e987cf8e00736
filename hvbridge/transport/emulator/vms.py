"""The VMs of the emulator: a directory per VM, with its name and state in files.

Starting a VM only marks it as running.
"""

from pathlib import Path
from uuid import UUID

from hvbridge.hyperv.guid import parse_guid
from hvbridge.hyperv.vms import Vm, VmError, VmState
from hvbridge.text import printable


class EmulatorDirectory:
    """The VMs of an emulated host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def vms(self) -> list[Vm]:
        """As `VmDirectory.vms`, sorted by name."""
        homes = self._directory.iterdir() if self._directory.is_dir() else iter(())
        found = [(home, parse_guid(home.name)) for home in homes if home.is_dir()]
        vms = [Vm(_read(home / "name") or str(vm), vm, state(home)) for home, vm in found if vm is not None]
        return sorted(vms, key=lambda vm: (vm.name, vm.id))

    async def wsl_vm_id(self, *, start: bool) -> UUID:
        """As `VmDirectory.wsl_vm_id`: the emulated VM named wsl."""
        for vm in await self.vms():
            if vm.name == "wsl":
                return vm.id
        raise VmError("the emulator has no VM named wsl", "create one, or write another VM")

    async def start(self, vm: UUID) -> None:
        """As `VmDirectory.start`."""
        self._set(vm, VmState.RUNNING)

    async def save(self, vm: UUID) -> None:
        """As `VmDirectory.save`."""
        self._set(vm, VmState.SAVED)

    def add(self, name: str, vm: UUID, initial: VmState = VmState.RUNNING) -> None:
        """Create or rename a VM. Raises OSError."""
        home = self._directory / str(vm)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "name").write_text(name, encoding="utf-8")
        self._set(vm, initial)

    def _set(self, vm: UUID, new: VmState) -> None:
        home = self._directory / str(vm)
        if not home.is_dir():
            raise VmError(f"the emulator has no VM {vm}", "write one from `hvbridge vms`")
        (home / "state").write_text(new, encoding="utf-8")


def state(home: Path) -> VmState:
    """Return the state of the VM whose directory is ``home``; running by default."""
    text = _read(home / "state")
    try:
        return VmState(text) if text else VmState.RUNNING
    except ValueError:
        return VmState.UNKNOWN


def _read(path: Path) -> str:
    try:
        return printable(path.read_text(encoding="utf-8").strip())
    except OSError:
        return ""
