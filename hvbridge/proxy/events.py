"""What happens in a running server, as values: one union, and one callable that handles it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hvbridge.proxy.record import ConnectionRecord
from hvbridge.transport.errors import DialError

logger = logging.getLogger(__name__)


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
    """Accepting pauses: descriptors or memory have run out, or the listener fails."""

    forward: str
    error: Exception


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
"""Logs an event, counts it, or shows it. Must not block."""


class EventBus:
    """Passes each event on to every handler. Nothing that a handler raises gets any further: it only tells.

    ``failures`` counts what handlers have raised; the log is told of the first, and then ever more seldom.
    """

    def __init__(self, *handlers: EventHandler) -> None:
        self.failures = 0
        self._handlers = handlers

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on."""
        for handler in self._handlers:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - it only tells, whatever it raises
                self._on_failure(event, error)

    def _on_failure(self, event: Event, error: Exception) -> None:
        self.failures += 1
        if str(self.failures).strip("0") == "1":  # 1, 10, 100, ...
            with suppress(Exception):
                logger.error(
                    "handling %s failed, %d times so far: %r", type(event).__name__, self.failures, error
                )
