"""The VMs of a Windows host, asked for through PowerShell.

Owns: the queries, and reading what PowerShell prints. Refuses: matching names, and remembering.

One CIM query of root/virtualization/v2 lists every VM, also those that do not run, in about a second. It needs
membership of Hyper-V Administrators, no elevation. Errors come as CIM's own codes, which are the same in every
language of Windows.
"""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import trio

from hvbridge.ids import parse_guid
from hvbridge.vms import Vm, VmError, VmState
from hvbridge.vms.wsl import wsl_vm_id
from hvbridge.wording import printable

_DEADLINE = 60.0
"""Seconds for PowerShell to answer: a cold start on a busy machine may take ten."""

_LIST = (
    "@(Get-CimInstance -Namespace root/virtualization/v2 -ClassName Msvm_ComputerSystem"
    " | Select-Object Name, ElementName, EnabledState)"
)
_SCRIPT = """\
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Console]::OutputEncoding = [Text.UTF8Encoding]::new($false)
try {{ $answer = @{{ ok = {query} }} }}
catch {{ $answer = @{{ code = "$($_.Exception.NativeErrorCode)"; kind = $_.Exception.GetType().Name; \
message = $_.Exception.Message }} }}
ConvertTo-Json -InputObject $answer -Compress -Depth 4
"""

# Msvm_ComputerSystem.EnabledState; the high numbers are older spellings of the same.
_STATES = {
    "2": VmState.RUNNING,
    "3": VmState.OFF,
    "4": VmState.STOPPING,
    "6": VmState.SAVED,
    "9": VmState.PAUSED,
    "10": VmState.STARTING,
    "32768": VmState.PAUSED,
    "32769": VmState.SAVED,
    "32770": VmState.STARTING,
    "32773": VmState.STOPPING,  # saving
    "32774": VmState.STOPPING,
    "32776": VmState.STOPPING,  # pausing
    "32777": VmState.STARTING,  # resuming
}

_NOT_PERMITTED = (
    "this user may not ask Hyper-V; join the group Hyper-V Administrators and sign in again, or write VM ids"
)
_NO_HYPERV = "this machine has no Hyper-V role; turn on Hyper-V in the Windows features, or write VM ids"
_ADVICE = {"InvalidNamespace": _NO_HYPERV, "InvalidClass": _NO_HYPERV, "AccessDenied": _NOT_PERMITTED}

Run = Callable[[Sequence[str]], Awaitable["subprocess.CompletedProcess[bytes]"]]
"""Runs a program and returns what it printed; raises OSError when it cannot be started."""


async def run_program(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run ``command`` without a window and without input. Raises OSError, `trio.TooSlowError`."""
    with trio.fail_after(_DEADLINE):
        return await trio.to_thread.run_sync(_run_blocking, command, abandon_on_cancel=True)


def _run_blocking(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    # The thread may be abandoned at the deadline, so the program gets the same one of its own.
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_DEADLINE,
        creationflags=flags,
        check=False,
    )


class PowerShellDirectory:
    """The VMs that Hyper-V on this machine has."""

    def __init__(self, run: Run = run_program) -> None:
        self._run = run

    async def vms(self) -> list[Vm]:
        """As `VmDirectory.vms`."""
        return parse_vms(await self._ask(_LIST))

    async def wsl_vm_id(self, *, start: bool) -> UUID:
        """As `VmDirectory.wsl_vm_id`."""
        return await wsl_vm_id(self._run, start=start)

    async def start(self, vm: UUID) -> None:
        """As `VmDirectory.start`; Start-VM resumes a saved VM, too."""
        await self._ask(f"(Get-VM -Id {vm} | Start-VM)")

    async def save(self, vm: UUID) -> None:
        """As `VmDirectory.save`."""
        await self._ask(f"(Get-VM -Id {vm} | Save-VM)")

    async def _ask(self, query: str) -> Any:
        script = _SCRIPT.format(query=query)
        command = ["powershell.exe", "-NoLogo", "-NoProfile", "-NonInteractive", "-Command", script]
        try:
            done = await self._run(command)
        except OSError as error:
            raise VmError(f"powershell.exe cannot be run ({error.strerror}); write VM ids") from error
        except trio.TooSlowError:
            raise VmError(
                f"PowerShell did not answer in {_DEADLINE:.0f} s; try again, or write VM ids"
            ) from None
        return parse_answer(done.stdout, done.stderr)


def parse_answer(stdout: bytes, stderr: bytes) -> Any:
    """Read the JSON that the script prints. Raises `VmError` for an error in it, and for anything else."""
    try:
        answer = json.loads(stdout.decode("utf-8-sig"))
        if "ok" in answer:
            return answer["ok"]
        code, message = str(answer["code"] or answer["kind"]), str(answer["message"] or "no reason given")
    except (ValueError, TypeError, KeyError):
        said = " ".join((stderr or stdout).decode("utf-8", "replace").split())
        what = f"PowerShell said {printable(said)}" if said else "PowerShell said nothing"
        raise VmError(f"the VMs cannot be listed: {what}; write VM ids") from None
    raise VmError(
        _ADVICE.get(code, f"the VMs cannot be asked for: {printable(message)} ({code}); write VM ids")
    )


def parse_vms(rows: Any) -> list[Vm]:
    """Read the rows of Msvm_ComputerSystem; the host's own has a name that is no GUID. Raises `VmError`."""
    try:
        if isinstance(rows, dict):  # ConvertTo-Json of PowerShell 5.1 may unwrap a list of one, or count it
            rows = [rows] if "Name" in rows else rows["value"]
        found = [
            (parse_guid(row["Name"]), str(row["ElementName"] or ""), str(row["EnabledState"])) for row in rows
        ]
    except (TypeError, KeyError):
        raise VmError(
            "the VMs cannot be listed: PowerShell gave rows of an unknown form; write VM ids"
        ) from None
    if not found:
        raise VmError(f"Hyper-V lists not even this host: {_NOT_PERMITTED}")
    return [Vm(name, vm, _STATES.get(state, VmState.UNKNOWN)) for vm, name, state in found if vm is not None]
