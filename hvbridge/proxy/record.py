"""What is known of one connection, from accept to its closing record."""

import itertools
from dataclasses import dataclass, field

from hvbridge.address.endpoint import Endpoint
from hvbridge.splice import Transfer

_ids = itertools.count(1)


@dataclass(slots=True)
class ConnectionRecord:
    """One connection; live while it is open, complete once it has closed."""

    forward: str
    peer: str
    """Who connected, as far as its transport tells: an address, a VM, a path."""
    upstream: Endpoint
    accepted: float
    """When it was accepted, on trio's clock."""
    dial_seconds: float | None = None
    """How long the dial took, waiting included; None when no upstream was reached."""
    seconds: float = 0.0
    """From accept to close."""
    transfer: Transfer = field(default_factory=Transfer)
    """Bytes each way, and why it ended."""
    bug: Exception | None = None
    """An exception that no peer can cause: a bug in hvbridge."""
    close_requested: bool = False
    """Whether it is to be closed as soon as its dial has ended."""
    id: int = field(default_factory=_ids.__next__)
    """Counts the connections of this process, from 1."""
