"""What a running bridge says: the table of forwards, and log lines.

Owns: the names of events and fields, which programs rely on, and the level of each. Refuses: how a line looks (`log`).
"""

import logging
from collections.abc import Sequence

import structlog
from rich.console import Console

from hvbridge.commands.tables import print_forwards
from hvbridge.compose import Bound
from hvbridge.forward import Record
from hvbridge.splice import Reason
from hvbridge.transport.errors import DialError


class LogReporter:
    """Logs what happens; that it is ready it shows on ``console`` instead, where there is a person to see it."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._log = structlog.get_logger().bind()  # logging is set up by now; unbound, each call would look

    def ready(self, forwards: Sequence[Bound]) -> None:
        """As `compose.Reporter.ready`."""
        if self._console is not None:
            show_ready(forwards, self._console)
            return
        lines = [{"forward": f.name, "listen": list(f.listen), "connect": f.connect} for f in forwards]
        self._log.info("ready", forwards=lines)

    def closed(self, record: Record) -> None:
        """Write the closing record of a connection."""
        transfer = record.transfer
        level = logging.INFO
        if record.bug is not None:
            level = logging.ERROR
        elif transfer.reason is Reason.DIAL_FAILED:
            level = logging.WARNING
        if not self._log.is_enabled_for(level):  # thousands of connections a second may close unseen
            return
        fields = {
            "id": record.id,
            "forward": record.forward,
            "peer": record.peer,
            "upstream": str(record.upstream),
            "client_to_upstream": transfer.client_to_upstream,
            "upstream_to_client": transfer.upstream_to_client,
            "seconds": round(record.seconds, 3),
            "dial_seconds": None if record.dial_seconds is None else round(record.dial_seconds, 4),
            "reason": str(transfer.reason),
        }
        if transfer.detail:
            fields["detail"] = transfer.detail
        if record.bug is not None:
            fields["exc_info"] = record.bug
        self._log.log(level, "connection closed", **fields)

    def upstream_changed(self, forward: str, error: DialError | None) -> None:
        """Log once that an upstream is down, and once that it is up again."""
        if error is None:
            self._log.info("upstream is up", forward=forward)
        else:
            self._log.warning(
                "upstream is down", forward=forward, upstream=str(error.endpoint), cause=error.why
            )

    def exhausted(self, forward: str, error: OSError) -> None:
        """Log that no connection can be accepted for a while."""
        self._log.warning("accepting pauses", forward=forward, cause=str(error))

    def vm_changed(self, vm: str, what: str) -> None:
        """Log that a VM was started or saved."""
        self._log.info("vm changed", vm=vm, change=what)


def show_ready(forwards: Sequence[Bound], console: Console) -> None:
    """Say that all listeners are bound, for a person."""
    rows = [(forward.name, "\n".join(forward.listen), forward.connect) for forward in forwards]
    console.print("hvbridge is [bold green]ready[/]")
    print_forwards(console, rows)
