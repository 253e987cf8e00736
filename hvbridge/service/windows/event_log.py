"""The events that a service writes to the event log: their ids, severities and texts.

Administrators filter by id and severity. Closing records are not written, because they would fill the log.
"""

import logging
import traceback
from collections.abc import Callable
from enum import IntEnum

from hvbridge.proxy import events
from hvbridge.proxy.record import ConnectionRecord

_REPEAT_INTERVAL = 60.0
"""Seconds before the same line is written again: some libraries repeat one ten times per second."""


class Severity(IntEnum):
    """Severities, with the numbers of Windows (EVENTLOG_ERROR_TYPE etc.)."""

    ERROR = 1
    WARNING = 2
    INFORMATION = 4


class EventId(IntEnum):
    """The ids of the events."""

    READY = 1
    DRAINING = 2
    UPSTREAM_UP = 3
    UPSTREAM_DOWN = 4
    VM_CHANGED = 5
    EXHAUSTED = 6
    CANNOT_START = 7
    BUG = 8
    LOGGED = 9
    RELOADED = 10
    RELOAD_FAILED = 11

    @property
    def severity(self) -> Severity:
        """The severity of the event."""
        if self in (EventId.CANNOT_START, EventId.BUG, EventId.RELOAD_FAILED):
            return Severity.ERROR
        if self in (EventId.UPSTREAM_DOWN, EventId.EXHAUSTED, EventId.LOGGED):
            return Severity.WARNING
        return Severity.INFORMATION


Log = Callable[[EventId, str], None]
"""Writes an event. Must not raise, and may be called from any thread."""


class EventLogReporter:
    """Writes events to the event log; ``on_ready`` is called once every listener is bound."""

    def __init__(self, log: Log, on_ready: Callable[[], None]) -> None:
        self._log = log
        self._on_ready = on_ready

    def on_event(self, event: events.Event) -> None:
        """Log an event. Of connections, log only those that were ended by a bug; all would fill the log."""
        match event:
            case events.ConnectionClosed(record=record):
                if record.bug is not None:
                    self._log_bug(record, record.bug)
            case events.Ready(forwards=forwards):
                lines = [f"{f.name}: {', '.join(f.listen)} -> {f.connect}" for f in forwards]
                self._log(EventId.READY, "\n".join(["ready", *lines]))
                self._on_ready()
            case events.UpstreamChanged(forward=forward, error=None):
                self._log(EventId.UPSTREAM_UP, f'forward "{forward}": its upstream is up')
            case events.UpstreamChanged(forward=forward, error=error):
                self._log(EventId.UPSTREAM_DOWN, f'forward "{forward}": {error}')
            case events.AcceptPaused(forward=forward, error=error):
                self._log(EventId.EXHAUSTED, f'forward "{forward}": accepting pauses: {error}')
            case events.VmChanged(vm=vm, change=change):
                self._log(EventId.VM_CHANGED, f"VM {vm}: {change}")
            case events.Reloaded(change=change):
                self._log(EventId.RELOADED, f"reloaded: {change}")
            case events.ReloadFailed(faults=faults):
                self._log(EventId.RELOAD_FAILED, "\n".join(["reload failed, nothing has changed", *faults]))

    def _log_bug(self, record: ConnectionRecord, bug: Exception) -> None:
        trace = "".join(traceback.format_exception(bug))
        self._log(
            EventId.BUG,
            f'forward "{record.forward}": a connection from {record.peer} was ended by a bug in hvbridge\n{trace}',
        )


class WarningHandler(logging.Handler):
    """Writes warnings from other parts and from libraries to the event log, each at most once a minute."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._written: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, unless it was written recently."""
        text = f"{record.name}: {record.getMessage()}"
        if record.created - self._written.get(text, 0.0) >= _REPEAT_INTERVAL:
            self._written = {
                text: record.created
            }  # remembering one line is enough: floods repeat the same line
            self._log(EventId.LOGGED, text)
