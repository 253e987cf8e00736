"""The VMs of a Windows host, asked for through PowerShell.

One CIM query of root/virtualization/v2 lists every VM, also those that do not run, in about a second. It needs
membership of Hyper-V Administrators, no elevation. Errors come as CIM's own codes, which are the same in every
language of Windows.
"""

import json
from typing import Any
from uuid import UUID

import trio

from hvbridge.hyperv.guid import parse_guid
from hvbridge.hyperv.process import DEADLINE, Run, run_program
from hvbridge.hyperv.vms import Vm, VmError, VmState
from hvbridge.hyperv.vms.wsl import wsl_vm_id
from hvbridge.text import Problem, printable

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

_NOT_PERMITTED = Problem(
    "this user may not ask Hyper-V", "join the group Hyper-V Administrators and sign in again"
)
_NO_HYPERV = Problem("this machine has no Hyper-V role", "turn on Hyper-V in the Windows features")
_KNOWN = {"InvalidNamespace": _NO_HYPERV, "InvalidClass": _NO_HYPERV, "AccessDenied": _NOT_PERMITTED}
"""What CIM's error codes mean."""

_WRITE_IDS = "write VM ids"
_DO_IT_YOURSELF = "do it in Hyper-V Manager, which tells more"
"""What helps where PowerShell does not: with listing VMs, and with starting or saving one."""


class PowerShellDirectory:
    """The VMs that Hyper-V on this machine has."""

    def __init__(self, run: Run = run_program) -> None:
        self._run = run

    async def vms(self) -> list[Vm]:
        """As `VmDirectory.vms`."""
        return parse_vms(await self._ask(_LIST, _WRITE_IDS))

    async def wsl_vm_id(self, *, start: bool) -> UUID:
        """As `VmDirectory.wsl_vm_id`."""
        return await wsl_vm_id(self._run, start=start)

    async def start(self, vm: UUID) -> None:
        """As `VmDirectory.start`; Start-VM resumes a saved VM, too."""
        await self._ask(f"(Get-VM -Id {vm} | Start-VM)", _DO_IT_YOURSELF)

    async def save(self, vm: UUID) -> None:
        """As `VmDirectory.save`."""
        await self._ask(f"(Get-VM -Id {vm} | Save-VM)", _DO_IT_YOURSELF)

    async def _ask(self, query: str, otherwise: str) -> Any:
        script = _SCRIPT.format(query=query)
        command = ["powershell.exe", "-NoLogo", "-NoProfile", "-NonInteractive", "-Command", script]
        try:
            done = await self._run(command)
        except OSError as error:
            raise VmError(f"powershell.exe cannot be run ({error.strerror})", otherwise) from error
        except trio.TooSlowError:
            raise VmError(
                f"PowerShell did not answer in {DEADLINE:.0f} s", f"try again, or {otherwise}"
            ) from None
        return parse_answer(done.stdout, done.stderr, otherwise)


def parse_answer(stdout: bytes, stderr: bytes, otherwise: str = _WRITE_IDS) -> Any:
    """Read the JSON that the script prints. Raises `VmError` for an error in it, and for anything else.

    ``otherwise`` is the advice for an error of which no better is known.
    """
    try:
        answer = json.loads(stdout.decode("utf-8-sig"))
        if "ok" in answer:
            return answer["ok"]
        code, message = str(answer["code"] or answer["kind"]), str(answer["message"] or "no reason given")
    except (ValueError, TypeError, KeyError):
        printed = " ".join((stderr or stdout).decode("utf-8", "replace").split())
        what = f"PowerShell printed {printable(printed)}" if printed else "PowerShell printed nothing"
        raise VmError(what, otherwise) from None
    if code in _KNOWN:
        raise VmError(_KNOWN[code].what, f"{_KNOWN[code].advice}, or {otherwise}")
    raise VmError(f"Hyper-V reports {printable(message)} ({code})", otherwise)


def parse_vms(rows: Any) -> list[Vm]:
    """Read the rows of Msvm_ComputerSystem; the host's own has a name that is no GUID. Raises `VmError`."""
    try:
        if isinstance(rows, dict):  # ConvertTo-Json of PowerShell 5.1 may unwrap a list of one, or count it
            rows = [rows] if "Name" in rows else rows["value"]
        found = [
            (parse_guid(row["Name"]), str(row["ElementName"] or ""), str(row["EnabledState"])) for row in rows
        ]
    except (TypeError, KeyError):
        raise VmError("PowerShell gave rows of an unknown form", _WRITE_IDS) from None
    if not found:
        raise VmError("Hyper-V lists not even this host", f"{_NOT_PERMITTED.advice}, or {_WRITE_IDS}")
    return [Vm(name, vm, _STATES.get(state, VmState.UNKNOWN)) for vm, name, state in found if vm is not None]
