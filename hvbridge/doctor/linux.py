"""Linux: whether this is a guest of Hyper-V, and what its AF_VSOCK has.

Owns: what /sys, /proc, /dev/vsock, `systemctl` and `ss` say. Refuses: making sockets.

AccessList: net/vmw_vsock of Linux (hyperv_transport.c, af_vsock.c), proc_pid_status(5), systemd-ssh-generator(8).
"""

import re
from collections.abc import Sequence

from hvbridge.doctor import Check, Finding, State
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.constants import VMADDR_CID_ANY, VMBUS, is_linux_guest

_CAP_NET_BIND_SERVICE = 10
_SSH = 22


def is_guest(machine: Machine) -> bool:
    """Whether this is a guest of Hyper-V: WSL2 is one, too."""
    return is_linux_guest(machine.root)


def check_guest(machine: Machine) -> Finding:
    """Say whether this is a guest of Hyper-V."""
    if is_guest(machine):
        return Finding(Check.GUEST, State.OK, "a guest of Hyper-V, whose host is parent in endpoints")
    return Finding(Check.GUEST, State.NOT_APPLICABLE, f"no guest of Hyper-V: there is no {VMBUS}")


def check_hv_sock(machine: Machine) -> Finding:
    """Say whether the kernel carries AF_VSOCK over VMBus."""
    if _is_loaded(machine, "hv_sock") or machine.path(f"{VMBUS}/drivers/hv_sock").exists():
        return Finding(Check.HV_SOCK, State.OK, "hv_sock is loaded")
    return Finding(
        Check.HV_SOCK,
        State.FAILED,
        "hv_sock is not loaded",
        "as root: modprobe hv_sock, and for the next boots: echo hv_sock > /etc/modules-load.d/hv_sock.conf",
    )


def check_vsock(machine: Machine) -> Finding:
    """Say whether there are AF_VSOCK sockets at all."""
    if "AF_VSOCK" not in machine.families:
        return Finding(
            Check.VSOCK,
            State.FAILED,
            f"{machine.python} was built without AF_VSOCK",
            "use the Python of your distribution, or build it where linux/vm_sockets.h is there",
        )
    if machine.path("/dev/vsock").exists():
        return Finding(Check.VSOCK, State.OK, "/dev/vsock is there")
    if _is_loaded(machine, "vsock"):
        summary = "vsock is loaded, and there is no /dev/vsock, as in many containers"
        return Finding(Check.VSOCK, State.DOUBTFUL, summary)
    advice = "as root: modprobe hv_sock in a guest of Hyper-V, else modprobe vsock"
    return Finding(Check.VSOCK, State.FAILED, "vsock is not loaded", advice)


def check_cid(machine: Machine, guest: bool) -> Finding:
    """Say which CID this machine has."""
    try:
        cid = machine.local_cid()
    except OSError as error:
        summary = f"/dev/vsock does not tell the CID: {error.strerror or error}"
        return Finding(Check.CID, State.DOUBTFUL, summary)
    if cid == VMADDR_CID_ANY:
        summary = f"{cid}, which stands for any: Hyper-V gives its guests no other"
        return Finding(Check.CID, State.OK if guest else State.DOUBTFUL, summary)
    if not guest:
        return Finding(Check.CID, State.OK, str(cid))
    summary = f"{cid}, though Hyper-V gives its guests none: AF_VSOCK goes another way than hv_sock"
    return Finding(Check.CID, State.DOUBTFUL, summary, "see lsmod for another vsock transport, and unload it")


async def check_sshd(machine: Machine) -> Finding:
    """Say whether something answers `hyperv://VM/ssh` in this guest without hvbridge."""
    unit = await machine.printed_by("systemctl", "is-active", "sshd-vsock.socket")
    if unit is not None and unit.text.strip() == "active":
        return Finding(Check.SSHD, State.OK, "systemd listens on vsock 22 (sshd-vsock.socket)")
    sockets = await machine.printed_by("ss", "--listening", "--vsock", "--numeric", "--no-header")
    if _SSH in parse_vsock_listeners(sockets.text if sockets else ""):
        return Finding(Check.SSHD, State.OK, "something listens on vsock 22")
    return Finding(
        Check.SSHD,
        State.NOT_APPLICABLE,
        "nothing listens on vsock 22",
        'for hyperv://VM/ssh, run a forward that listens on "hyperv://parent/ssh", or let systemd listen',
    )


def check_low_ports(machine: Machine, listeners: Sequence[str]) -> Finding:
    """Say whether ``listeners``, which want vsock ports up to 1023, may have them."""
    if has_capability(machine.read("/proc/self/status"), _CAP_NET_BIND_SERVICE):
        return Finding(Check.LOW_PORTS, State.OK, "this user may listen on vsock ports up to 1023")
    return Finding(
        Check.LOW_PORTS,
        State.FAILED,
        f"this user may not listen on vsock ports up to 1023: {', '.join(listeners)}",
        "run with CAP_NET_BIND_SERVICE (AmbientCapabilities=CAP_NET_BIND_SERVICE in a unit), or use higher ports",
    )


def parse_vsock_listeners(text: str) -> frozenset[int]:
    """Read the ports in what `ss --listening --vsock --numeric --no-header` printed."""
    rows = (line.split() for line in text.splitlines())
    ports = (row[4].rpartition(":")[2] for row in rows if len(row) > 4 and row[1] == "LISTEN")
    return frozenset(int(port) for port in ports if port.isdecimal())


def has_capability(status: str, number: int) -> bool:
    """Whether a /proc/PID/status has a capability among the effective ones."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> number & 1)


def _is_loaded(machine: Machine, module: str) -> bool:
    """Whether the kernel has a module, as one or built in; some of the latter are in no list."""
    loaded = re.search(rf"^{module} ", machine.read("/proc/modules"), re.MULTILINE)
    return loaded is not None or machine.path(f"/sys/module/{module}").exists()
