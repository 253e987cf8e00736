"""What happens in a running server, as values: one union, and one callable that handles it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hvbridge.proxy.record import ConnectionRecord
from hvbridge.transport.errors import DialError


@dataclass(frozen=True, slots=True)
class BoundForward:
    """A forward that listens, in words for a person."""

    name: str
    listen: Sequence[str]
    """Every address that was bound, with the port that the system picked where it was asked to."""
    connect: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Every listener is bound."""

    forwards: Sequence[BoundForward]


@dataclass(slots=True)
class ConnectionClosed:
    """A connection has closed; its record is complete. Not frozen: one is made for each connection."""

    record: ConnectionRecord


@dataclass(frozen=True, slots=True)
class UpstreamChanged:
    """An upstream can no longer be reached, or, without an error, can be reached again."""

    forward: str
    error: DialError | None


@dataclass(frozen=True, slots=True)
class AcceptPaused:
    """Accepting pauses, for want of descriptors or memory."""

    forward: str
    error: OSError


@dataclass(frozen=True, slots=True)
class VmChanged:
    """A VM has been started or saved, or could not be saved."""

    vm: str
    change: str


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The config file has been read again, and ``change`` made."""

    change: str


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """The config file has been read again, and nothing has changed."""

    faults: Sequence[str]


Event = ConnectionClosed | Ready | UpstreamChanged | AcceptPaused | VmChanged | Reloaded | ReloadFailed

EventHandler = Callable[[Event], None]
"""Logs an event, counts it, or shows it. Must neither raise nor block."""


def broadcast(*handlers: EventHandler) -> EventHandler:
    """Return what passes each event on to every one of ``handlers``."""

    def handle(event: Event) -> None:
        for handler in handlers:
            handler(event)

    return handle
