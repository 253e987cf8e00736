"""Windows: the Hyper-V role, the user's rights, and WSL2.

Owns: what `sc`, `whoami`, `reg` and `wsl` print. Refuses: sockets (`loopback`) and ports (`ports`).
"""

import re
from collections.abc import Sequence
from enum import Enum, auto

from hvbridge.doctor import Check, Finding, State
from hvbridge.doctor.probe import Machine, Printed
from hvbridge.hyperv.constants import HYPERV_ADMINISTRATORS

_ELEVATED = frozenset({"S-1-16-12288", "S-1-16-16384"})
"""The high and the system mandatory level. Source: Microsoft, "Well-known SIDs"."""

_NO_SUCH_SERVICE = 1060
"""ERROR_SERVICE_DOES_NOT_EXIST, with which sc.exe ends."""
_RUNNING = 4
"""SERVICE_RUNNING of winsvc.h."""

_GUEST_KEY = r"HKLM\SOFTWARE\Microsoft\Virtual Machine\Guest\Parameters"
"""Made by the integration services of a guest, with the name of its VM. Source: Microsoft, IVMGuestOS2."""


class Role(Enum):
    """What this Windows is to Hyper-V."""

    HOST = auto()
    STOPPED_HOST = auto()
    GUEST = auto()
    WSL_HOST = auto()
    """It has the platform that WSL2 runs on, and not the role."""
    NONE = auto()
    UNKNOWN = auto()


async def role(machine: Machine) -> Role:
    """Find out what this Windows is to Hyper-V; a guest that has VMs of its own is a host."""
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
    """Read the state in what `sc query` printed; None when it shows no service.

    The lines of type and state, in this order, are those with a number and a word; their labels are translated.
    """
    fields = re.findall(r"^[^:\n]*:\s*([0-9a-f]+)\s+[A-Z]", printed.text if printed else "", re.MULTILINE)
    return int(fields[1]) if len(fields) > 1 else None


def _is_missing(printed: Printed | None) -> bool:
    return printed is not None and (printed.code == _NO_SUCH_SERVICE or str(_NO_SUCH_SERVICE) in printed.text)


def check_hyperv(found: Role) -> Finding:
    """Say what this Windows is to Hyper-V."""
    match found:
        case Role.HOST:
            return Finding(Check.HYPERV, State.OK, "a Hyper-V host, and its service vmms is running")
        case Role.STOPPED_HOST:
            return Finding(
                Check.HYPERV,
                State.FAILED,
                "the Hyper-V service vmms is not running",
                "start it in PowerShell as administrator: Start-Service vmms",
            )
        case Role.GUEST:
            return Finding(Check.HYPERV, State.OK, "a guest of Hyper-V, whose host is parent in endpoints")
        case Role.WSL_HOST:
            return Finding(
                Check.HYPERV,
                State.DOUBTFUL,
                "no Hyper-V role, only the platform of WSL2: there are no VMs but wsl",
                "for other VMs, in PowerShell as administrator, then restart: "
                "Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V-All",
            )
        case Role.NONE:
            return Finding(
                Check.HYPERV,
                State.FAILED,
                "no Hyper-V role: there is no service vmms",
                "turn it on in PowerShell as administrator, then restart: "
                "Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V-All",
            )
        case Role.UNKNOWN:
            return Finding(
                Check.HYPERV, State.DOUBTFUL, "sc.exe did not tell whether there is a service vmms"
            )


async def check_rights(machine: Machine, found: Role) -> Finding:
    """Say whether the user may use Hyper-V sockets of VMs."""
    if found in (Role.GUEST, Role.WSL_HOST):
        summary = "a guest needs none" if found is Role.GUEST else "WSL2's VM belongs to the user who runs it"
        return Finding(Check.RIGHTS, State.NOT_APPLICABLE, summary)
    printed = await machine.printed_by("whoami.exe", "/groups", "/fo", "csv", "/nh")
    sids = parse_groups(printed.text if printed else "")
    if not sids:
        return Finding(Check.RIGHTS, State.DOUBTFUL, "whoami.exe did not tell the groups of the user")
    if sids & _ELEVATED:
        return Finding(Check.RIGHTS, State.OK, "elevated; hvbridge itself does not need to be")
    if HYPERV_ADMINISTRATORS in sids:
        return Finding(Check.RIGHTS, State.OK, "a member of Hyper-V Administrators")
    return Finding(
        Check.RIGHTS,
        State.FAILED,
        "neither a member of Hyper-V Administrators nor elevated",
        f"join in PowerShell as administrator: Add-LocalGroupMember -SID {HYPERV_ADMINISTRATORS} -Member USER; "
        "then sign in again",
    )


def parse_groups(text: str) -> frozenset[str]:
    """Read the SIDs in what `whoami /groups` printed, in any form and language."""
    return frozenset(re.findall(r"\bS-1-\d+(?:-\d+)+\b", text))


async def check_wsl2(machine: Machine, deaf: Sequence[str]) -> Finding:
    """Say whether WSL2 would want to be heard by the forwards that listen on `any` or `children`."""
    distributions = parse_distributions(await machine.printed_by("wsl.exe", "--list", "--quiet"))
    if not distributions:
        return Finding(Check.WSL2, State.NOT_APPLICABLE, "WSL has no distribution here")
    return Finding(
        Check.WSL2,
        State.DOUBTFUL,
        f"any and children do not hear WSL2 ({', '.join(distributions)}): {', '.join(deaf)}",
        "a forward that WSL2 should reach listens on hyperv://wsl/SERVICE",
    )


def parse_distributions(printed: Printed | None) -> list[str]:
    """Read the names in what `wsl --list --quiet` printed; a stub without WSL prints help, and fails."""
    if printed is None or printed.code != 0:
        return []
    return [name for line in printed.text.lstrip("\ufeff").splitlines() if (name := line.strip())]
