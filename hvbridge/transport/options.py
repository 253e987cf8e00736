"""What a caller may ask of a dial or of a listener, whatever the transport.

Owns: the two sets of options. Refuses: defaults that a user sees (the config has them).
"""

import math
from dataclasses import dataclass
from typing import Literal

ConnectMode = Literal["auto", "nonblocking", "thread"]

LONGEST_CONNECT = 300.0
"""Seconds, HVSOCKET_CONNECT_TIMEOUT_MAX: as long as Windows lets a Hyper-V socket wait; the others keep to it."""


@dataclass(frozen=True, slots=True)
class DialOptions:
    """Options of a dial; a transport ignores what its sockets do not have."""

    timeout: float = 10.0
    """Seconds that the dial may take; `math.inf` for no limit of ours."""
    tcp_keepalive: float = math.inf
    """Seconds of silence before TCP probes the peer; `math.inf` for no probes."""
    connect_mode: ConnectMode = "auto"
    """How an AF_HYPERV socket connects."""
    connected_suspend: bool = False
    """Ask Hyper-V to keep the connection while the VM is suspended (HVSOCKET_CONNECTED_SUSPEND)."""


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """Options of a listener and of the streams that it accepts."""

    backlog: int = 1024
    """Connections that the kernel may hold before they are accepted."""
    buffer: int | None = None
    """Bytes of each socket buffer, set before listen(); None leaves the system's choice."""
    tcp_keepalive: float = math.inf
    """As for a dial, on accepted streams."""
    connected_suspend: bool = False
    """As for a dial, on accepted streams."""
