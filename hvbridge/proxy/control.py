"""What may be seen of a running bridge, and asked of it: the interface of the admin endpoint. `app.control` has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ForwardState:
    """A forward as it is now."""

    name: str
    listen: Sequence[str]
    """Every address that is bound."""
    connect: str
    state: str
    """``listening``, or ``draining``: it has stopped listening, and its connections live on."""
    upstream: str
    """``unknown``, ``up`` or ``down``."""
    upstream_cause: str
    """Why the upstream is down; empty unless it is."""
    health: str
    """Of the health check: "passing", "failing" (or not done yet), or "" where none is asked for."""
    connections: int
    """Connections now."""
    max_connections: int


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """A connection as it is now."""

    id: int
    forward: str
    peer: str
    """Who connected."""
    upstream: str
    state: str
    """``dialling`` or ``open``."""
    seconds: float
    """Since it was accepted."""
    client_to_upstream: int
    """Bytes so far."""
    upstream_to_client: int
    """Bytes so far."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What a bridge could not tell, since it started; it harms nothing else."""

    log_lines: int
    """Lines that the log has lost: it could not be written, or its reader was too slow."""
    events: int
    """Events that a handler failed on; the log has the first."""


class ReloadError(Exception):
    """A new config has faults, and nothing has changed. ``faults`` are sentences for a person."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class BridgeControl(Protocol):
    """A running bridge. Only `reload` waits; the others answer for the moment in which they are called."""

    def is_ready(self) -> bool:
        """Whether every listener is bound, and every health check that is asked for passes."""

    def forwards(self) -> list[ForwardState]:
        """Every forward, also those that drain."""

    def connections(self, forward: str | None = None) -> list[ConnectionState]:
        """The connections of one forward, or of all."""

    def close(self, connection_id: int) -> bool:
        """Close a connection; False where there is no such connection."""

    def drain(self, forward: str) -> bool:
        """Let a forward accept no more connections; False where there is no such forward."""

    def losses(self) -> Losses:
        """What could not be told."""

    async def reload(self) -> str:
        """Read the config again, and return what changed, for a person. Raises `ReloadError`."""
