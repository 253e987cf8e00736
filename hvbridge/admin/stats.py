"""Statistics of a bridge: totals, recent closings, and subscribers to events; all bounded in size.

Every closing of the bridge passes through here, so nothing is formatted before it is requested.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, time

from hvbridge.address.endpoint import Endpoint
from hvbridge.proxy import events
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.splice import Reason

RECENT = 200
"""Closings that are kept: a few screens."""
MAX_SUBSCRIBERS = 32
"""Each subscriber costs a snapshot per second; a bridge has fewer people and dashboards watching."""
_PENDING = 256
"""Events queued for a slow subscriber; the oldest are dropped first."""

DIAL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from a local service to a VM that has to boot."""


@dataclass(frozen=True, slots=True)
class Closing:
    """A connection that has closed."""

    id: int
    forward: str
    peer: str
    """Who connected."""
    upstream: str
    closed_at: datetime
    seconds: float
    """From accept to close."""
    dial_seconds: float | None
    """How long the dial took; null when no upstream was reached."""
    client_to_upstream: int
    """Bytes."""
    upstream_to_client: int
    """Bytes."""
    reason: str
    """One of the closing reasons."""
    detail: str
    """A sentence, or empty."""


@dataclass(frozen=True, slots=True)
class UpstreamChange:
    """An upstream became unreachable, or reachable again."""

    forward: str
    upstream: str
    """``up`` or ``down``."""
    cause: str
    """Why it is down; empty when it is up."""


_Record = tuple[int, str, str, Endpoint, float, float, float | None, int, int, str, str]
"""A `Closing` before formatting: with an endpoint instead of its text, and a Unix time instead of a date."""


class StreamEvent:
    """An event for subscribers. ``kind`` is ``closed`` or ``upstream``."""

    __slots__ = ("_what", "frame", "kind")

    def __init__(self, kind: str, what: "_Record | UpstreamChange") -> None:
        self.kind = kind
        self.frame = b""
        """The encoded event, shared by all streams; empty until first encoded."""
        self._what = what

    @property
    def value(self) -> Closing | UpstreamChange:
        """What happened."""
        return self._what if isinstance(self._what, UpstreamChange) else _closing(self._what)


@dataclass(slots=True)
class Totals:
    """The totals of the closed connections of a forward."""

    reasons: Counter[Reason] = field(default_factory=Counter)
    """Closings by reason."""
    client_to_upstream: int = 0
    upstream_to_client: int = 0
    dials: list[int] = field(default_factory=lambda: [0] * (len(DIAL_BUCKETS) + 1))
    """Successful dials by bucket of `DIAL_BUCKETS`; the last counts those above all buckets."""
    dial_seconds: float = 0.0
    """The sum of their durations."""
    accept_pauses: int = 0

    @property
    def closed(self) -> int:
        """Connections that were accepted and have closed."""
        return self.reasons.total()


class Subscriber:
    """Receives events; those not taken in time are dropped, oldest first."""

    def __init__(self) -> None:
        self._pending: deque[StreamEvent] = deque(maxlen=_PENDING)

    def put(self, event: StreamEvent) -> None:
        """Queue ``event``; it is dropped if too many more follow before `take`."""
        self._pending.append(event)

    def take(self) -> list[StreamEvent]:
        """Return the events since the last call."""
        events = list(self._pending)
        self._pending.clear()
        return events


class TooManySubscribersError(Exception):
    """There are `MAX_SUBSCRIBERS` already."""


class Statistics:
    """Counts events since the start.

    ``totals`` has every forward seen so far, by name, including those that a reload has removed: if one comes back, its
    counters continue.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.totals: defaultdict[str, Totals] = defaultdict(Totals)
        self.reloads: Counter[bool] = Counter()
        """Reloads, by success."""
        self._started = monotonic()
        self._recent: deque[_Record] = deque(maxlen=RECENT)
        self._subscribers: set[Subscriber] = set()

    @property
    def uptime(self) -> float:
        """Seconds since the start, by a monotonic clock."""
        return monotonic() - self._started

    @property
    def subscribers(self) -> int:
        """How many hear of events now."""
        return len(self._subscribers)

    def recent(self) -> list[Closing]:
        """Return the last closings, newest first."""
        return [_closing(raw) for raw in reversed(self._recent)]

    @contextmanager
    def subscribe(self) -> Iterator[Subscriber]:
        """Subscribe to events for the duration of the block. Raises `TooManySubscribersError`."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise TooManySubscribersError
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def on_event(self, event: events.Event) -> None:
        """Count an event. The control knows the current state, and VM changes are only logged."""
        match event:
            case events.ConnectionClosed(record=record):
                self._count_closed(record)
            case events.UpstreamChanged(forward=forward, error=None):
                self._publish(StreamEvent("upstream", UpstreamChange(forward, "up", "")))
            case events.UpstreamChanged(forward=forward, error=error) if error is not None:
                self._publish(StreamEvent("upstream", UpstreamChange(forward, "down", error.why)))
            case events.AcceptPaused(forward=forward):
                self.totals[forward].accept_pauses += 1
            case events.Reloaded() | events.ReloadFailed():
                self.reloads[isinstance(event, events.Reloaded)] += 1
            case _:
                pass

    def _count_closed(self, record: ConnectionRecord) -> None:
        """Count a connection, and keep it for a while."""
        transfer = record.transfer
        totals = self.totals[record.forward]
        reason = transfer.reason or Reason.INTERNAL_ERROR
        totals.reasons[reason] += 1
        totals.client_to_upstream += transfer.client_to_upstream
        totals.upstream_to_client += transfer.upstream_to_client
        if record.dial_seconds is not None:
            totals.dials[bisect_left(DIAL_BUCKETS, record.dial_seconds)] += 1
            totals.dial_seconds += record.dial_seconds
        # Not the record itself, which may hold an exception and with it all that its frames hold.
        raw = (
            record.id,
            record.forward,
            record.peer,
            record.upstream,
            time(),
            record.seconds,
            record.dial_seconds,
            transfer.client_to_upstream,
            transfer.upstream_to_client,
            reason,
            transfer.detail,
        )
        self._recent.append(raw)
        if self._subscribers:
            self._publish(StreamEvent("closed", raw))

    def _publish(self, event: StreamEvent) -> None:
        for subscriber in self._subscribers:
            subscriber.put(event)


def _closing(raw: _Record) -> Closing:
    number, forward, peer, upstream, closed_at, seconds, dial_seconds, up, down, reason, detail = raw
    return Closing(
        id=number,
        forward=forward,
        peer=peer,
        upstream=str(upstream),
        closed_at=datetime.fromtimestamp(closed_at, UTC),
        seconds=round(seconds, 3),  # as in the log
        dial_seconds=None if dial_seconds is None else round(dial_seconds, 4),
        client_to_upstream=up,
        upstream_to_client=down,
        reason=str(reason),
        detail=detail,
    )
