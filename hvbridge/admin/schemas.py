"""The values that the API returns, and their JSON encoding. Programs rely on the names and types of the fields."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime

from hvbridge import __version__
from hvbridge.admin.stats import Statistics
from hvbridge.proxy.control import BridgeControl, ConnectionState, ForwardState
from hvbridge.splice import Reason

MAX_SHOWN = 500
"""Connections in a snapshot: more than a person reads, and about 100 KiB."""


@dataclass(frozen=True, slots=True)
class Status:
    """The bridge as a whole."""

    version: str
    started: datetime
    uptime_seconds: float
    ready: bool
    """Whether every listener is bound and every configured health check passes."""
    log_lines_dropped: int = 0
    """Lines that the log has lost: it could not be written, or its reader was too slow."""
    event_failures: int = 0
    """Events that could not be logged or counted, by a bug in hvbridge; the log has the first."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the bridge is ready."""

    ready: bool
    forwards: dict[str, str]
    """The forwards that are not ready, and why; empty if the bridge is ready, or if a token is set."""


@dataclass(frozen=True, slots=True)
class ForwardView(ForwardState):
    """The state of a forward, and the totals of its closed and open connections."""

    accepted: int
    """Connections accepted, including those that were refused."""
    refused: int
    """Of these, closed at once: not allowed, or over a limit."""
    dial_failed: int
    """Of these, closed because the upstream could not be reached."""
    client_to_upstream: int
    """Bytes."""
    upstream_to_client: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the bridge at one moment."""

    forwards: list[ForwardView]
    connections: list[ConnectionState]
    """The first 500."""
    uptime_seconds: float
    log_lines_dropped: int = 0
    """As in the status."""
    event_failures: int = 0
    """As in the status."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A reload that succeeded."""

    changed: str
    """What changed, for a person."""


@dataclass(frozen=True, slots=True)
class Faults:
    """A reload that changed nothing."""

    faults: list[str]
    """What is wrong with the config, one message each."""


@dataclass(frozen=True, slots=True)
class Error:
    """A request that could not be served."""

    error: str
    """Why, and what to do."""


def status(control: BridgeControl, stats: Statistics) -> Status:
    """Return the state of the bridge as a whole."""
    losses = control.losses()
    return Status(
        __version__,
        stats.started,
        round(stats.uptime, 3),
        control.is_ready(),
        losses.log_lines,
        losses.events,
    )


def readiness(control: BridgeControl, *, with_reasons: bool) -> Readiness:
    """Return whether the bridge is ready, and why not."""
    if control.is_ready():
        return Readiness(True, {})
    forwards = control.forwards() if with_reasons else []
    return Readiness(False, {forward.name: why for forward in forwards if (why := _trouble(forward))})


def _trouble(forward: ForwardState) -> str:
    if forward.state != "listening":
        return f"the forward is {forward.state}"
    if forward.health != "failing":
        return ""
    return (
        f"the upstream is down: {forward.upstream_cause}"
        if forward.upstream_cause
        else "the upstream has not been checked yet"
    )


def forward_views(
    control: BridgeControl, stats: Statistics, connections: Iterable[ConnectionState]
) -> list[ForwardView]:
    """Return every forward with its totals. ``connections`` are the open connections of all forwards."""
    live: dict[
        str, list[int]
    ] = {}  # also those that a reload has left to drain, which are not among the states'
    for connection in connections:
        sums = live.setdefault(connection.forward, [0, 0, 0])
        sums[0] += 1
        sums[1] += connection.client_to_upstream
        sums[2] += connection.upstream_to_client
    views = []
    for state in control.forwards():
        totals = stats.totals[state.name]
        count, to_upstream, to_client = live.get(state.name, (0, 0, 0))
        views.append(
            ForwardView(
                **{field.name: getattr(state, field.name) for field in fields(ForwardState)},
                accepted=totals.closed + count,
                refused=totals.reasons[Reason.REFUSED],
                dial_failed=totals.reasons[Reason.DIAL_FAILED],
                client_to_upstream=totals.client_to_upstream + to_upstream,
                upstream_to_client=totals.upstream_to_client + to_client,
            )
        )
    return views


def snapshot(control: BridgeControl, stats: Statistics) -> Snapshot:
    """Return the current state of the bridge."""
    connections = control.connections()
    forwards = forward_views(control, stats, connections)
    losses = control.losses()
    return Snapshot(
        forwards, connections[:MAX_SHOWN], round(stats.uptime, 3), losses.log_lines, losses.events
    )


def encode(value: object) -> bytes:
    """Return ``value``, a view or a list of views, as JSON on one line."""
    return json.dumps(value, default=_plain, separators=(",", ":")).encode("ascii")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return list(value)  # type: ignore[call-overload]  # a Sequence that is neither list nor tuple
