"""Sets up log lines on standard error: readable text, or one JSON object per line."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from hvbridge.cli.log_writer import LineWriter, write_to
from hvbridge.text import escaped

_LEVELS = logging.getLevelNamesMapping()


def configure(form: str, level: str) -> LineWriter:
    """Set up logging for the process, and return what writes the lines, which the caller closes.

    ``form`` is text or json, ``level`` the lowest level that is logged.
    """
    lowest = _LEVELS[level.upper()]
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if form == "json":
        time: Any = structlog.processors.TimeStamper(fmt="iso", utc=True)
        render: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        time = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        render = [
            structlog.dev.ConsoleRenderer(
                colors=is_terminal, sort_keys=False, pad_event_to=0, pad_level=False
            )
        ]
    processors = [structlog.processors.add_log_level, time, _escape, *render]
    writer = LineWriter(
        write_to(sys.stderr), _dropped_line(processors), getattr(sys.stderr, "encoding", None) or "utf-8"
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_IntoStructlog()]
    root.setLevel(lowest)
    return writer


def _escape(_logger: object, _method: str, event: Any) -> Any:
    """Escape what is not printable: a peer, or a file, may have a part in any text, and must not forge a line."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in event.items()}


class _Lines:
    """What structlog gives rendered lines to, whatever their level."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = writer.put


def _dropped_line(processors: Sequence[Any]) -> Callable[[int], str]:
    def line(count: int) -> str:
        event: Any = {"event": "log lines dropped", "count": count}
        for process in processors:
            event = process(None, "warning", event)
        return str(event)

    return line


class _IntoStructlog(logging.Handler):
    """Forwards the log lines of libraries, without their tracebacks, which do not help a user."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name)
