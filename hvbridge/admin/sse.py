"""The event stream (server-sent events): a snapshot every second, and events in between.

Memory for a slow reader is bounded: what it does not read in time is dropped. This is a custom response, because
Starlette's streams take a generator, which a cancellation leaves to the garbage collector.
"""

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hvbridge.admin.schemas import encode, snapshot
from hvbridge.admin.stats import Statistics, StreamEvent, Subscriber
from hvbridge.proxy.control import BridgeControl

SNAPSHOT_INTERVAL = 1.0
"""Seconds."""
PACE = 0.25
"""Seconds between batches of events: soon enough for a person, and a bound on the cost of thousands of them."""


class Snapshots:
    """Creates each snapshot once for all streams."""

    def __init__(self, control: BridgeControl, stats: Statistics) -> None:
        self._control = control
        self._stats = stats
        self._made = float("-inf")
        self._frame = b""

    def frame(self) -> bytes:
        """Return an encoded snapshot that is less than a second old."""
        now = trio.current_time()
        if now - self._made >= SNAPSHOT_INTERVAL:
            self._made = now
            self._frame = _frame("snapshot", snapshot(self._control, self._stats))
        return self._frame


class EventStream(Response):
    """Sends events until the reader disconnects or ``stopping`` is set."""

    media_type = "text/event-stream"

    def __init__(self, snapshots: Snapshots, stats: Statistics, stopping: trio.Event) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # a reverse proxy must not buffer events
        del self.headers["content-length"]
        self._snapshots = snapshots
        self._stats = stats
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream. Raises `TooManySubscribersError` before it has begun."""
        with self._stats.subscribe() as subscriber:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
                    await self._send_events(subscriber, send)
                    nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, subscriber: Subscriber, send: Send) -> None:
        next_snapshot = trio.current_time()
        while not self._stopping.is_set():
            frames = [_frame_of(event) for event in subscriber.take()]
            if trio.current_time() >= next_snapshot:
                frames.append(self._snapshots.frame())
                next_snapshot = trio.current_time() + SNAPSHOT_INTERVAL
            if frames:
                # Blocks while the reader is slow; meanwhile events are queued, and snapshots skipped.
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
            with trio.move_on_after(PACE):
                await self._stopping.wait()


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _frame_of(event: StreamEvent) -> bytes:
    if not event.frame:
        event.frame = _frame(event.kind, event.value)
    return event.frame


def _frame(kind: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode("ascii"), encode(value))
