"""What a service tells the event log.

Owns: which events there are, the id and the severity of each, which administrators filter by, and their words.
Refuses: writing them anywhere (it is given a function), and each connection's end, which would fill the log.
"""

import logging
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum

from hvbridge.compose import Bound
from hvbridge.forward import Record
from hvbridge.transport.errors import DialError

_QUIET = 60.0
"""Seconds for which a logged line is not written again: some repeat one ten times a second."""


class Severity(IntEnum):
    """How bad an event is, by Windows' numbers (EVENTLOG_ERROR_TYPE and its like)."""

    ERROR = 1
    WARNING = 2
    INFORMATION = 4


class Event(IntEnum):
    """The ids of the events."""

    READY = 1
    DRAINING = 2
    UPSTREAM_UP = 3
    UPSTREAM_DOWN = 4
    VM_CHANGED = 5
    EXHAUSTED = 6
    CANNOT_START = 7
    FAULT = 8
    LOGGED = 9
    RELOADED = 10
    RELOAD_FAILED = 11

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        if self in (Event.CANNOT_START, Event.FAULT, Event.RELOAD_FAILED):
            return Severity.ERROR
        if self in (Event.UPSTREAM_DOWN, Event.EXHAUSTED, Event.LOGGED):
            return Severity.WARNING
        return Severity.INFORMATION


Log = Callable[[Event, str], None]
"""Writes an event. Must not raise, and may be called from any thread."""


class EventLogReporter:
    """A `compose.Reporter` for the event log; ``on_ready`` is called once every listener is bound."""

    def __init__(self, log: Log, on_ready: Callable[[], None]) -> None:
        self._log = log
        self._on_ready = on_ready

    def ready(self, forwards: Sequence[Bound]) -> None:
        """Say what listens where, and that the service runs."""
        lines = [f"{f.name}: {', '.join(f.listen)} -> {f.connect}" for f in forwards]
        self._log(Event.READY, "\n".join(["ready", *lines]))
        self._on_ready()

    def closed(self, record: Record) -> None:
        """Log a connection that ended by a fault of hvbridge; of the others, nothing."""
        if record.bug is not None:
            trace = "".join(traceback.format_exception(record.bug))
            self._log(
                Event.FAULT,
                f'forward "{record.forward}": a connection from {record.peer} ended by a fault of hvbridge\n{trace}',
            )

    def upstream_changed(self, forward: str, error: DialError | None) -> None:
        """Log once that an upstream is down, and once that it is up again."""
        if error is None:
            self._log(Event.UPSTREAM_UP, f'forward "{forward}": its upstream is up')
        else:
            self._log(Event.UPSTREAM_DOWN, f'forward "{forward}": {error}')

    def exhausted(self, forward: str, error: OSError) -> None:
        """Log that no connection can be accepted for a while."""
        self._log(Event.EXHAUSTED, f'forward "{forward}": accepting pauses: {error}')

    def vm_changed(self, vm: str, what: str) -> None:
        """Log that a VM was started or saved."""
        self._log(Event.VM_CHANGED, f"VM {vm}: {what}")

    def reloaded(self, change: str) -> None:
        """Log what a reload has changed."""
        self._log(Event.RELOADED, f"reloaded: {change}")

    def reload_failed(self, faults: Sequence[str]) -> None:
        """Log why a reload has changed nothing."""
        self._log(Event.RELOAD_FAILED, "\n".join(["reload failed, nothing has changed", *faults]))


class WarningHandler(logging.Handler):
    """Passes on the warnings that are logged by other parts and by libraries, each once a minute."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._written: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, unless it was written just now."""
        text = f"{record.name}: {record.getMessage()}"
        if record.created - self._written.get(text, 0.0) >= _QUIET:
            self._written = {text: record.created}  # one is enough: what floods the log repeats itself
            self._log(Event.LOGGED, text)
