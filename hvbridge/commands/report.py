"""What a running bridge says: the table of forwards, and log lines.

Owns: the names of events and fields, which programs rely on, and the level of each. Refuses: how a line looks (`log`).
"""

import logging
import re
import time
from collections.abc import Callable, Sequence

import structlog
import trio
from rich.console import Console

from hvbridge.commands.flood import WINDOW, Flood, Suppressed
from hvbridge.commands.tables import print_forwards
from hvbridge.compose import Bound
from hvbridge.forward import Record
from hvbridge.splice import Reason
from hvbridge.transport.errors import DialError

_WARNED = frozenset({Reason.DIAL_FAILED, Reason.REFUSED})
_IN_VAIN = _WARNED | {Reason.ERROR_ON_CLIENT}
"""Why a connection may have closed before it reached its upstream, and so may come again at once, all the time."""
_PORT = re.compile(r":[0-9]+$")


class LogReporter:
    """Logs what happens; that it is ready it shows on ``console`` instead, where there is a person to see it.

    Of a peer that connects in vain again and again, a few closings are written and the others counted; `tell_of_floods`
    must run for the counts to be written in time. ``clock`` gives seconds that never go back.
    """

    def __init__(self, console: Console | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._flood = Flood(self._suppressed, clock)
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
        elif transfer.reason in _WARNED:
            level = logging.WARNING
        if not self._log.is_enabled_for(level):  # thousands of connections a second may close unseen
            return
        if record.dial_seconds is None and transfer.reason in _IN_VAIN:
            peer = _PORT.sub("", record.peer)  # which is another each time
            if not self._flood.lets_through(record.forward, peer, transfer.reason):
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

    async def tell_of_floods(self) -> None:
        """Write the counts of what was not written, at the end of each window, and all of them when cancelled."""
        try:
            while True:
                await trio.sleep(WINDOW)
                self._flood.tell_due()
        finally:
            self._flood.tell_all()

    def _suppressed(self, what: Suppressed) -> None:
        self._log.warning(
            "closings suppressed",
            forward=what.forward,
            peer=what.peer,
            suppressed=what.count,
            reasons=what.reasons,
        )

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

    def reloaded(self, change: str) -> None:
        """Log what a reload has changed."""
        self._log.info("reloaded", change=change)

    def reload_failed(self, faults: Sequence[str]) -> None:
        """Log why a reload has changed nothing."""
        self._log.error("reload failed, nothing has changed", faults=list(faults))


def show_ready(forwards: Sequence[Bound], console: Console) -> None:
    """Say that all listeners are bound, for a person."""
    rows = [(forward.name, "\n".join(forward.listen), forward.connect) for forward in forwards]
    console.print("hvbridge is [bold green]ready[/]")
    print_forwards(console, rows)
