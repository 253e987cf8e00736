"""Log lines on standard error: for people, or one JSON object a line.

Owns: how a line looks, and taking in what libraries log. Refuses: deciding what is worth a line.
"""

import logging
import sys
from typing import Any

import structlog

_LEVELS = logging.getLevelNamesMapping()


def configure(form: str, level: str) -> None:
    """Set up logging for the process; ``form`` is text or json, ``level`` the least important level shown."""
    least = _LEVELS[level.upper()]
    if form == "json":
        time: Any = structlog.processors.TimeStamper(fmt="iso", utc=True)
        render: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        time = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), sort_keys=False, pad_event_to=0, pad_level=False
            )
        ]
    structlog.configure(
        processors=[structlog.processors.add_log_level, time, *render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_IntoStructlog()]
    root.setLevel(least)


class _IntoStructlog(logging.Handler):
    """Takes the lines that libraries log; without tracebacks, which are theirs to read, not the user's."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name)
