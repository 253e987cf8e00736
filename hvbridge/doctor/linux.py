"""Linux: whether this is a guest of Hyper-V, and the state of its AF_VSOCK. Opens no sockets.

Sources: net/vmw_vsock of Linux (hyperv_transport.c, af_vsock.c), proc_pid_status(5), systemd-ssh-generator(8).
"""

import re
from collections.abc import Sequence

from hvbridge.doctor import Check, Finding, State
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.constants import VMADDR_CID_ANY, VMBUS, is_linux_guest

_CAP_NET_BIND_SERVICE = 10
_SSH = 22


def is_guest(machine: Machine) -> bool:
    """Whether this is a Hyper-V guest; WSL2 is one, too."""
    return is_linux_guest(machine.root)


def check_guest(machine: Machine) -> Finding:
    """Check whether this is a Hyper-V guest."""
    if is_guest(machine):
        return Finding(Check.GUEST, State.OK, "a Hyper-V guest; endpoints call its host parent")
    return Finding(Check.GUEST, State.NOT_APPLICABLE, f"not a Hyper-V guest: {VMBUS} does not exist")


def check_hv_sock(machine: Machine) -> Finding:
    """Check whether the kernel carries AF_VSOCK over VMBus."""
    if _is_loaded(machine, "hv_sock") or machine.path(f"{VMBUS}/drivers/hv_sock").exists():
        return Finding(Check.HV_SOCK, State.OK, "hv_sock is loaded")
    return Finding(
        Check.HV_SOCK,
        State.FAILED,
        "hv_sock is not loaded",
        "as root: modprobe hv_sock; to load it at each boot: echo hv_sock > /etc/modules-load.d/hv_sock.conf",
    )


def check_vsock(machine: Machine) -> Finding:
    """Check whether Python and the kernel have AF_VSOCK."""
    if "AF_VSOCK" not in machine.families:
        return Finding(
            Check.VSOCK,
            State.FAILED,
            f"{machine.python} was built without AF_VSOCK",
            "use your distribution's Python, or build one with linux/vm_sockets.h installed",
        )
    if machine.path("/dev/vsock").exists():
        return Finding(Check.VSOCK, State.OK, "/dev/vsock exists")
    if _is_loaded(machine, "vsock"):
        summary = "vsock is loaded, but /dev/vsock does not exist, as in many containers"
        return Finding(Check.VSOCK, State.DOUBTFUL, summary)
    advice = "as root: modprobe hv_sock in a Hyper-V guest, otherwise modprobe vsock"
    return Finding(Check.VSOCK, State.FAILED, "vsock is not loaded", advice)


def check_cid(machine: Machine, guest: bool) -> Finding:
    """Check the CID of this machine."""
    try:
        cid = machine.local_cid()
    except OSError as error:
        summary = f"/dev/vsock did not return the CID: {error.strerror or error}"
        return Finding(Check.CID, State.DOUBTFUL, summary)
    if cid == VMADDR_CID_ANY:
        summary = f"{cid}, the wildcard: Hyper-V gives its guests no CID of their own"
        return Finding(Check.CID, State.OK if guest else State.DOUBTFUL, summary)
    if not guest:
        return Finding(Check.CID, State.OK, str(cid))
    summary = f"{cid}, but Hyper-V gives its guests no CID: AF_VSOCK uses a transport other than hv_sock"
    return Finding(
        Check.CID, State.DOUBTFUL, summary, "find the other vsock transport with lsmod, and unload it"
    )


async def check_sshd(machine: Machine) -> Finding:
    """Check whether something other than hvbridge listens for `hyperv://VM/ssh` in this guest."""
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
        'for hyperv://VM/ssh, run a forward that listens on "hyperv://parent/ssh", or use systemd\'s sshd-vsock.socket',
    )


def check_low_ports(machine: Machine, listeners: Sequence[str]) -> Finding:
    """Check whether this user may bind the vsock ports up to 1023 that ``listeners`` need."""
    if has_capability(machine.read("/proc/self/status"), _CAP_NET_BIND_SERVICE):
        return Finding(Check.LOW_PORTS, State.OK, "this user may listen on vsock ports up to 1023")
    return Finding(
        Check.LOW_PORTS,
        State.FAILED,
        f"this user may not listen on vsock ports up to 1023: {', '.join(listeners)}",
        "run with CAP_NET_BIND_SERVICE (in a unit: AmbientCapabilities=CAP_NET_BIND_SERVICE), or use higher ports",
    )


def parse_vsock_listeners(text: str) -> frozenset[int]:
    """Parse the ports from the output of `ss --listening --vsock --numeric --no-header`."""
    rows = (line.split() for line in text.splitlines())
    ports = (row[4].rpartition(":")[2] for row in rows if len(row) > 4 and row[1] == "LISTEN")
    return frozenset(int(port) for port in ports if port.isdecimal())


def has_capability(status: str, number: int) -> bool:
    """Whether a /proc/PID/status lists a capability as effective."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> number & 1)


def _is_loaded(machine: Machine, module: str) -> bool:
    """Whether a kernel module is loaded or built in."""
    loaded = re.search(rf"^{module} ", machine.read("/proc/modules"), re.MULTILINE)
    return loaded is not None or machine.path(f"/sys/module/{module}").exists()
