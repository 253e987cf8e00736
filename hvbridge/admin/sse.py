"""The stream of events: a snapshot every second, and what happens in between.

Owns: its form (server-sent events), its pace, and its end. Refuses: memory to a slow reader: what it does not take is
not kept for it. It is a response of its own because Starlette's streams take a generator, which a cancellation leaves
to the garbage collector.
"""

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hvbridge.admin.schemas import encode, snapshot
from hvbridge.admin.stats import Statistics, StreamEvent, Subscriber
from hvbridge.proxy.control import BridgeControl

_SNAPSHOT_INTERVAL = 1.0
"""Seconds."""
_PACE = 0.25
"""Seconds between two looks for events: soon enough for a person, and a bound to what thousands of them cost."""


class Snapshots:
    """Makes the snapshot of the moment once, for all who send it."""

    def __init__(self, control: BridgeControl, stats: Statistics) -> None:
        self._control = control
        self._stats = stats
        self._made = float("-inf")
        self._frame = b""

    def frame(self) -> bytes:
        """Return a snapshot that is less than a second old, as it is sent."""
        now = trio.current_time()
        if now - self._made >= _SNAPSHOT_INTERVAL:
            self._made = now
            self._frame = _frame("snapshot", snapshot(self._control, self._stats))
        return self._frame


class EventStream(Response):
    """Sends events until the reader leaves or ``stopping`` is set."""

    media_type = "text/event-stream"

    def __init__(self, snapshots: Snapshots, stats: Statistics, stopping: trio.Event) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # a reverse proxy must not hold them back
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
                    nursery.start_soon(_cancel_when_left, receive, nursery.cancel_scope)
                    await self._send_events(subscriber, send)
                    nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, subscriber: Subscriber, send: Send) -> None:
        next_snapshot = trio.current_time()
        while not self._stopping.is_set():
            frames = [_frame_of(event) for event in subscriber.take()]
            if trio.current_time() >= next_snapshot:
                frames.append(self._snapshots.frame())
                next_snapshot = trio.current_time() + _SNAPSHOT_INTERVAL
            if frames:
                # Waits for as long as the reader is slow; events that come meanwhile wait, and snapshots are left out.
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
            with trio.move_on_after(_PACE):
                await self._stopping.wait()


async def _cancel_when_left(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _frame_of(event: StreamEvent) -> bytes:
    if not event.frame:
        event.frame = _frame(event.kind, event.value)
    return event.frame


def _frame(kind: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode("ascii"), encode(value))
