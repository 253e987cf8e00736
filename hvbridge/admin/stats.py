"""What the admin endpoint has heard of a bridge: totals, recent closings, and who wants to hear more.

Owns: counting, and keeping it all bounded. Refuses: what is open now (`control`), and how any of it is shown.
Every closing of the bridge passes here, so that nothing is formatted before someone asks for it.
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
"""Closings that are kept: some screens full."""
MAX_SUBSCRIBERS = 32
"""Each costs a snapshot's bytes every second; people and dashboards that watch one bridge are fewer."""
_PENDING = 256
"""Events that wait for a subscriber who is slow to take them; the oldest are lost first."""

DIAL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from a service of this machine to a VM that is waited for while it boots."""


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
    """An upstream can no longer be reached, or can be reached again."""

    forward: str
    upstream: str
    """``up`` or ``down``."""
    cause: str
    """Why it is down; empty when it is up."""


_Noted = tuple[int, str, str, Endpoint, float, float, float | None, int, int, str, str]
"""A `Closing` in the making: what has passed as an endpoint and a Unix time is a text and a date in it."""


class StreamEvent:
    """Something that subscribers hear of. ``kind`` is ``closed`` or ``upstream``."""

    __slots__ = ("_what", "frame", "kind")

    def __init__(self, kind: str, what: "_Noted | UpstreamChange") -> None:
        self.kind = kind
        self.frame = b""
        """It as it is sent, once somebody has encoded it, for all who send it."""
        self._what = what

    @property
    def value(self) -> Closing | UpstreamChange:
        """What happened."""
        return self._what if isinstance(self._what, UpstreamChange) else _closing(self._what)


@dataclass(slots=True)
class Totals:
    """What the closed connections of a forward add up to."""

    reasons: Counter[Reason] = field(default_factory=Counter)
    """Closings by reason."""
    client_to_upstream: int = 0
    upstream_to_client: int = 0
    dials: list[int] = field(default_factory=lambda: [0] * (len(DIAL_BUCKETS) + 1))
    """Dials that succeeded, by the bucket of `DIAL_BUCKETS` that they are in; the last is for those above all."""
    dial_seconds: float = 0.0
    """Their sum."""
    accept_pauses: int = 0

    @property
    def closed(self) -> int:
        """Connections that were accepted and have closed."""
        return self.reasons.total()


class Subscriber:
    """Someone who wants to hear of events; what is not taken in time is lost, oldest first."""

    def __init__(self) -> None:
        self._pending: deque[StreamEvent] = deque(maxlen=_PENDING)

    def put(self, event: StreamEvent) -> None:
        """Keep ``event`` until it is taken, or too many more have come."""
        self._pending.append(event)

    def take(self) -> list[StreamEvent]:
        """Return what has come since the last call."""
        events = list(self._pending)
        self._pending.clear()
        return events


class TooManySubscribersError(Exception):
    """There are `MAX_SUBSCRIBERS` already."""


class Statistics:
    """Counts what happens, from the start on.

    ``totals`` has the forwards that have been heard of, by name, also those that a reload has removed: one that comes
    back counts on.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.totals: defaultdict[str, Totals] = defaultdict(Totals)
        self.reloads: Counter[bool] = Counter()
        """By whether they succeeded."""
        self._started = monotonic()
        self._recent: deque[_Noted] = deque(maxlen=RECENT)
        self._subscribers: set[Subscriber] = set()

    @property
    def uptime(self) -> float:
        """Seconds since the start, whatever was done to the clock."""
        return monotonic() - self._started

    def recent(self) -> list[Closing]:
        """Return the last closings, newest first."""
        return [_closing(noted) for noted in reversed(self._recent)]

    @contextmanager
    def subscribe(self) -> Iterator[Subscriber]:
        """Hear of events for as long as the block lasts. Raises `TooManySubscribersError`."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise TooManySubscribersError
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def on_event(self, event: events.Event) -> None:
        """Count what happens; the control knows what is, and the log tells of VMs."""
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
        noted = (
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
        self._recent.append(noted)
        if self._subscribers:
            self._publish(StreamEvent("closed", noted))

    def _publish(self, event: StreamEvent) -> None:
        for subscriber in self._subscribers:
            subscriber.put(event)


def _closing(noted: _Noted) -> Closing:
    number, forward, peer, upstream, closed_at, seconds, dial_seconds, up, down, reason, detail = noted
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
