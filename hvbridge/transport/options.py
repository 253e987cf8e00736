"""Options of dials and listeners, for all transports. The defaults that users see are in the config models."""

import math
from dataclasses import dataclass
from typing import Literal

ConnectMode = Literal["auto", "nonblocking", "thread"]

LONGEST_CONNECT = 300.0
"""Seconds, HVSOCKET_CONNECT_TIMEOUT_MAX: the longest connect of a Hyper-V socket on Windows; used by all transports."""


@dataclass(frozen=True, slots=True)
class DialOptions:
    """Options of a dial; a transport ignores those that its sockets do not have."""

    timeout: float = 10.0
    """Seconds that the dial may take; `math.inf` for no limit."""
    tcp_keepalive: float = math.inf
    """Seconds of silence before TCP probes the peer; `math.inf` for no probes."""
    connect_mode: ConnectMode = "auto"
    """How an AF_HYPERV socket connects."""
    connected_suspend: bool = False
    """Ask Hyper-V to keep the connection while the VM is suspended (HVSOCKET_CONNECTED_SUSPEND)."""


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """Options of a listener and of its accepted streams."""

    backlog: int = 1024
    """Connections that the kernel may hold before they are accepted."""
    buffer: int | None = None
    """Bytes of each socket buffer, set before listen(); None for the system's default."""
    tcp_keepalive: float = math.inf
    """As for a dial, on accepted streams."""
    connected_suspend: bool = False
    """As for a dial, on accepted streams."""
