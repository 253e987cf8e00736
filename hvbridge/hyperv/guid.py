"""The GUIDs of Hyper-V sockets: wildcards for VMs, well-known services, and the GUID of each vsock port."""

import re
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hvbridge.text import quote

ANY: Final = uuid.UUID("00000000-0000-0000-0000-000000000000")
"""HV_GUID_WILDCARD (HV_GUID_ZERO): a listener accepts from every partition."""

CHILDREN: Final = uuid.UUID("90db8b89-0d35-4f79-8ce9-49ea0ac8b7cd")
"""HV_GUID_CHILDREN: a listener accepts from the VMs of this machine."""

PARENT: Final = uuid.UUID("a42e7cda-d03f-480c-9cc2-a4de20abb878")
"""HV_GUID_PARENT: the host of this VM, to connect to or to accept from."""

LOOPBACK: Final = uuid.UUID("e0e16197-dd56-4a10-9195-5ee7a155a838")
"""HV_GUID_LOOPBACK: the partition that this process is in."""

BROADCAST: Final = uuid.UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
"""HV_GUID_BROADCAST: named by the Windows headers, but a stream socket can do nothing with it."""

VM_WILDCARDS: Final[Mapping[str, uuid.UUID]] = MappingProxyType(
    {"any": ANY, "children": CHILDREN, "parent": PARENT, "loopback": LOOPBACK, "broadcast": BROADCAST}
)
"""VM ids with a meaning of their own, by the names that endpoints use.

Source: Microsoft, "Make your own integration services" (VMID wildcards); hvsocket.h of the Windows SDK.
"""

MAX_VSOCK_PORT: Final = 0x7FFF_FFFF
"""The highest vsock port that Hyper-V carries. Source: Linux, net/vmw_vsock/hyperv_transport.c."""

_VSOCK_TEMPLATE: Final = uuid.UUID("00000000-facb-11e6-bd58-64006a7986d3")
"""HV_GUID_VSOCK_TEMPLATE: its first 32 bits hold the port. Source: hvsocket.h and hyperv_transport.c."""

_PORT_SHIFT: Final = 96

_GUID = re.compile(r"\{?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?")


def parse_guid(text: str) -> uuid.UUID | None:
    """Read a GUID in its 8-4-4-4-12 form, in any case, with or without braces; None when it is none.

    Stricter than `uuid.UUID`, which also takes `urn:uuid:` and hyphens anywhere.
    """
    match = _GUID.fullmatch(text)
    if match is None or text.startswith("{") != text.endswith("}"):
        return None
    return uuid.UUID(match[1])


def service_id_of_port(port: int) -> uuid.UUID:
    """Return the service GUID that stands for a vsock port.

    Raises:
        ValueError: the port is not in 0..0x7FFFFFFF.
    """
    if not 0 <= port <= MAX_VSOCK_PORT:
        raise ValueError(f"vsock port {port} is out of range; Hyper-V carries 0 to {MAX_VSOCK_PORT}")
    return uuid.UUID(int=_VSOCK_TEMPLATE.int | port << _PORT_SHIFT)


def port_of_service_id(service_id: uuid.UUID) -> int | None:
    """Return the vsock port that a service GUID stands for, or None when it is outside the vsock template."""
    port = service_id.int >> _PORT_SHIFT
    if port > MAX_VSOCK_PORT or service_id != service_id_of_port(port):
        return None
    return port


class WellKnownService(NamedTuple):
    """A service whose GUID is public knowledge."""

    id: uuid.UUID
    note: str
    """What answers there."""
    forwardable: bool
    """Whether a plain stream can be forwarded to it; false means that it is only listed."""


WELL_KNOWN_SERVICES: Final[Mapping[str, WellKnownService]] = MappingProxyType(
    {
        "ssh": WellKnownService(service_id_of_port(22), "Linux guests whose sshd listens on vsock 22", True),
        "xrdp": WellKnownService(
            service_id_of_port(3389), "Linux guests whose xrdp listens on vsock 3389", True
        ),
        "powershell-direct-broker": WellKnownService(
            uuid.UUID("999e53d4-3d5c-4c3e-8779-bed06ec056e1"),
            "the broker of PowerShell Direct, stateful and authenticated",
            False,
        ),
        "powershell-direct-session": WellKnownService(
            uuid.UUID("a5201c21-2770-4c11-a68e-f182edb29220"),
            "a session of PowerShell Direct, stateful and authenticated",
            False,
        ),
    }
)
"""Services by the names that endpoints use.

None of them is the RDP of a Windows guest: Windows has no such service. There, a bridge in the guest listens.
AccessList: systemd-ssh-generator(8), xrdp.ini(5), PowerShell's RemoteSessionHyperVSocket.cs.
"""

_VM_NAMES: Final = {vm: name for name, vm in VM_WILDCARDS.items()}
_SERVICE_NAMES: Final = {s.id: name for name, s in WELL_KNOWN_SERVICES.items() if s.forwardable}

HOST: Final = uuid.UUID(int=0)
"""The host among the partitions of the emulator. Hyper-V gives the host no id of its own."""


def vm_text(vm: uuid.UUID) -> str:
    """Return a VM id as endpoints print it: the name of a wildcard, else the GUID in lower case."""
    return _VM_NAMES.get(vm) or str(vm)


def service_text(service_id: uuid.UUID) -> str:
    """Return a service id as endpoints print it: a well-known name, else a vsock port, else the GUID."""
    name = _SERVICE_NAMES.get(service_id)
    if name is not None:
        return name
    port = port_of_service_id(service_id)
    return str(service_id) if port is None else str(port)


def parse_partition(text: str) -> uuid.UUID:
    """Read which partition a process of the emulator is in: `host` (which gives `HOST`) or the GUID of a VM.

    Raises:
        ValueError: it is neither; the text is "what is wrong; what to write".
    """
    if text == "host":
        return HOST
    partition = parse_guid(text)
    if partition is None:
        raise ValueError(f"{quote(text)} is not a partition; write host or the GUID of a VM")
    if partition in _VM_NAMES:
        raise ValueError(f"{quote(text)} is a wildcard, not a VM; write host or a GUID from hvbridge guid")
    return partition


def partition_text(partition: uuid.UUID) -> str:
    """Return the text that `parse_partition` reads back as ``partition``."""
    return "host" if partition == HOST else str(partition)
