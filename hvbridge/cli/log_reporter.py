"""Logs the events of a running bridge. Programs rely on the names of events and fields, and on their levels."""

import ipaddress
import logging
import re
import time
from collections.abc import Callable, Sequence

import structlog
import trio
from rich.console import Console

from hvbridge.cli.formatting import print_forwards
from hvbridge.cli.log_throttle import WINDOW, LogThrottle, Suppressed
from hvbridge.proxy import events
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.splice import Reason

_WARNED = frozenset({Reason.DIAL_FAILED, Reason.REFUSED})
_UNSUCCESSFUL = _WARNED | {Reason.ERROR_ON_CLIENT}
"""Reasons of connections that closed before they reached the upstream; a client may retry these continuously."""
_PORT = re.compile(r":[0-9]+$")
_IPV6 = re.compile(r"\[([0-9a-fA-F:.]+)(?:%[^\]]*)?\]")
_IPV6_SUBNET = 64
"""Bits: what one site has; each of its machines may have any number of addresses in it."""


class LogReporter:
    """Logs events; readiness is shown by ``show_ready`` instead, if it is given.

    Of a peer that keeps failing to connect, a few closings are logged and the others counted; `flush_throttle` must run
    for the counts to be logged in time. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        show_ready: Callable[[Sequence[events.BoundForward]], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show_ready = show_ready
        self._throttle = LogThrottle(self._log_suppressed, clock)
        self._log = structlog.get_logger().bind()  # logging is set up by now; unbound, each call would look

    def on_event(self, event: events.Event) -> None:
        """Log an event."""
        match event:
            case events.ConnectionClosed(record=record):
                self._log_closed(record)
            case events.Ready(forwards=forwards):
                self._log_ready(forwards)
            case events.UpstreamChanged(forward=forward, error=None):
                self._log.info("upstream is up", forward=forward)
            case events.UpstreamChanged(forward=forward, error=error) if error is not None:
                self._log.warning(
                    "upstream is down", forward=forward, upstream=str(error.endpoint), cause=error.why
                )
            case events.AcceptPaused(forward=forward, error=error):
                self._log.warning("accepting pauses", forward=forward, cause=str(error))
            case events.VmChanged(vm=vm, change=change):
                self._log.info("vm changed", vm=vm, change=change)
            case events.Reloaded(change=change):
                self._log.info("reloaded", change=change)
            case events.ReloadFailed(faults=faults):
                self._log.error("reload failed, nothing has changed", faults=list(faults))

    def _log_ready(self, forwards: Sequence[events.BoundForward]) -> None:
        if self._show_ready is not None:
            self._show_ready(forwards)
            return
        lines = [{"forward": f.name, "listen": list(f.listen), "connect": f.connect} for f in forwards]
        self._log.info("ready", forwards=lines)

    def _log_closed(self, record: ConnectionRecord) -> None:
        transfer = record.transfer
        level = logging.INFO
        if record.bug is not None:
            level = logging.ERROR
        elif transfer.reason in _WARNED:
            level = logging.WARNING
        if not self._log.is_enabled_for(
            level
        ):  # skip formatting; thousands of connections may close per second
            return
        if record.dial_seconds is None and transfer.reason in _UNSUCCESSFUL:
            peer = _source_of(record.peer)
            if not self._throttle.allow(record.forward, peer, transfer.reason):
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

    async def flush_throttle(self) -> None:
        """Log the suppressed counts at the end of each window, and all of them when cancelled."""
        try:
            while True:
                await trio.sleep(WINDOW)
                self._throttle.flush_due()
        finally:
            self._throttle.flush()

    def _log_suppressed(self, what: Suppressed) -> None:
        self._log.warning(
            "closings suppressed",
            forward=what.forward,
            peer=what.peer,
            suppressed=what.count,
            reasons=what.reasons,
        )


def show_ready(forwards: Sequence[events.BoundForward], console: Console) -> None:
    """Print that the bridge is ready, and the table of forwards."""
    rows = [(forward.name, forward.listen, forward.connect) for forward in forwards]
    console.print("hvbridge is [bold green]ready[/]")
    print_forwards(console, rows)


def _source_of(peer: str) -> str:
    """Return what stays of a peer when it comes again: its address without the port, of IPv6 its subnet."""
    address = _PORT.sub("", peer)
    match = _IPV6.fullmatch(address)
    if match is None:
        return address
    return str(ipaddress.ip_network((match[1], _IPV6_SUBNET), strict=False))
