"""Facts about Hyper-V and AF_VSOCK that more than one module needs, each with its source."""

from pathlib import Path
from typing import Final

AF_VSOCK: Final = 40
"""socket.AF_VSOCK, which only CPython on Linux has."""

VMADDR_CID_LOCAL: Final = 1
VMADDR_CID_HOST: Final = 2
VMADDR_CID_ANY: Final = 0xFFFF_FFFF
VMADDR_PORT_ANY: Final = 0xFFFF_FFFF
"""Source of these four: Linux, include/uapi/linux/vm_sockets.h."""

LAST_PRIVILEGED_VSOCK_PORT: Final = 1023
"""LAST_RESERVED_PORT of Linux, net/vmw_vsock/af_vsock.c: up to it, listening needs CAP_NET_BIND_SERVICE."""

HYPERV_ADMINISTRATORS: Final = "S-1-5-32-578"
"""The SID of the group, whose name differs with the language of Windows. Source: Microsoft, "Well-known SIDs"."""

VMBUS: Final = "/sys/bus/vmbus"
"""Linux has this directory if, and only if, it is a guest of Hyper-V; WSL2 is one, too."""


def is_linux_guest(root: Path = Path("/")) -> bool:
    """Whether the Linux whose file system begins at ``root`` is a guest of Hyper-V."""
    return (root / VMBUS.lstrip("/")).exists()
