"""Windows: the Hyper-V role, the user's rights, and WSL2, from `sc`, `whoami`, `reg` and `wsl`."""

import re
from collections.abc import Sequence
from enum import Enum, auto

from hvbridge.doctor import Check, Finding, State
from hvbridge.doctor.probe import Machine, Printed
from hvbridge.hyperv.constants import HYPERV_ADMINISTRATORS

_ELEVATED = frozenset({"S-1-16-12288", "S-1-16-16384"})
"""The high and the system mandatory level. Source: Microsoft, "Well-known SIDs"."""

_NO_SUCH_SERVICE = 1060
"""ERROR_SERVICE_DOES_NOT_EXIST, the exit code of sc.exe."""
_RUNNING = 4
"""SERVICE_RUNNING of winsvc.h."""

_GUEST_KEY = r"HKLM\SOFTWARE\Microsoft\Virtual Machine\Guest\Parameters"
"""Created by a guest's integration services, with the name of its VM. Source: Microsoft, IVMGuestOS2."""


class Role(Enum):
    """The role of this Windows in Hyper-V."""

    HOST = auto()
    STOPPED_HOST = auto()
    GUEST = auto()
    WSL_HOST = auto()
    """It has the platform of WSL2, but not the Hyper-V role."""
    NONE = auto()
    UNKNOWN = auto()


async def role(machine: Machine) -> Role:
    """Determine the role of this Windows; a guest that has VMs of its own is a host."""
    vmms = await machine.printed_by("sc.exe", "query", "vmms")
    state = parse_service_state(vmms)
    if state is not None:
        return Role.HOST if state == _RUNNING else Role.STOPPED_HOST
    guest = await machine.printed_by("reg.exe", "query", _GUEST_KEY, "/v", "VirtualMachineName")
    if guest is not None and guest.code == 0:
        return Role.GUEST
    if parse_service_state(await machine.printed_by("sc.exe", "query", "vmcompute")) is not None:
        return Role.WSL_HOST
    return Role.NONE if _is_missing(vmms) else Role.UNKNOWN


def parse_service_state(printed: Printed | None) -> int | None:
    """Parse the state from the output of `sc query`; None if it shows no service.

    Labels are translated: the type and the state are the first two lines with a number and a word.
    """
    fields = re.findall(r"^[^:\n]*:\s*([0-9a-f]+)\s+[A-Z]", printed.text if printed else "", re.MULTILINE)
    return int(fields[1]) if len(fields) > 1 else None


def _is_missing(printed: Printed | None) -> bool:
    return printed is not None and (printed.code == _NO_SUCH_SERVICE or str(_NO_SUCH_SERVICE) in printed.text)


def check_hyperv(found: Role) -> Finding:
    """Check the role of this Windows."""
    match found:
        case Role.HOST:
            return Finding(Check.HYPERV, State.OK, "a Hyper-V host; its service vmms is running")
        case Role.STOPPED_HOST:
            return Finding(
                Check.HYPERV,
                State.FAILED,
                "the Hyper-V service vmms is not running",
                "start it in PowerShell as administrator: Start-Service vmms",
            )
        case Role.GUEST:
            return Finding(Check.HYPERV, State.OK, "a Hyper-V guest; endpoints call its host parent")
        case Role.WSL_HOST:
            return Finding(
                Check.HYPERV,
                State.DOUBTFUL,
                "no Hyper-V role, only the platform of WSL2: the only VM is wsl",
                "for other VMs, in PowerShell as administrator, then restart: "
                "Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V-All",
            )
        case Role.NONE:
            return Finding(
                Check.HYPERV,
                State.FAILED,
                "no Hyper-V role: the service vmms does not exist",
                "enable it in PowerShell as administrator, then restart: "
                "Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V-All",
            )
        case Role.UNKNOWN:
            return Finding(
                Check.HYPERV, State.DOUBTFUL, "sc.exe did not report whether the service vmms exists"
            )


async def check_rights(machine: Machine, found: Role) -> Finding:
    """Check whether the user may connect to VMs over Hyper-V sockets."""
    if found in (Role.GUEST, Role.WSL_HOST):
        summary = (
            "a guest needs no rights" if found is Role.GUEST else "WSL2's VM belongs to the user who runs it"
        )
        return Finding(Check.RIGHTS, State.NOT_APPLICABLE, summary)
    printed = await machine.printed_by("whoami.exe", "/groups", "/fo", "csv", "/nh")
    sids = parse_groups(printed.text if printed else "")
    if not sids:
        return Finding(Check.RIGHTS, State.DOUBTFUL, "whoami.exe did not report the user's groups")
    if sids & _ELEVATED:
        return Finding(Check.RIGHTS, State.OK, "elevated; hvbridge does not need elevation")
    if HYPERV_ADMINISTRATORS in sids:
        return Finding(Check.RIGHTS, State.OK, "a member of Hyper-V Administrators")
    return Finding(
        Check.RIGHTS,
        State.FAILED,
        "neither a member of Hyper-V Administrators nor elevated",
        f"add the user in PowerShell as administrator: Add-LocalGroupMember -SID {HYPERV_ADMINISTRATORS} -Member USER; "
        "then sign in again",
    )


def parse_groups(text: str) -> frozenset[str]:
    """Parse the SIDs from the output of `whoami /groups`, in any format and language."""
    return frozenset(re.findall(r"\bS-1-\d+(?:-\d+)+\b", text))


async def check_wsl2(machine: Machine, listeners: Sequence[str]) -> Finding:
    """Warn that ``listeners``, on `any` or `children`, do not accept from WSL2, if there are WSL distributions."""
    distributions = parse_distributions(await machine.printed_by("wsl.exe", "--list", "--quiet"))
    if not distributions:
        return Finding(Check.WSL2, State.NOT_APPLICABLE, "WSL has no distributions")
    return Finding(
        Check.WSL2,
        State.DOUBTFUL,
        f"any and children do not accept connections from WSL2 ({', '.join(distributions)}): {', '.join(listeners)}",
        "for WSL2, listen on hyperv://wsl/SERVICE",
    )


def parse_distributions(printed: Printed | None) -> list[str]:
    """Parse the names from the output of `wsl --list --quiet`; without WSL, the stub prints help and fails."""
    if printed is None or printed.code != 0:
        return []
    return [name for line in printed.text.lstrip("\ufeff").splitlines() if (name := line.strip())]
