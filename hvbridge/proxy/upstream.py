"""How a forward reaches its upstream: in turn, again while that may help, and by starting its VM."""

import random
from collections.abc import Awaitable, Callable

import trio

from hvbridge.address.endpoint import Endpoint
from hvbridge.transport.errors import Cause, DialError
from hvbridge.transport.stream import SocketStream

RETRYABLE = frozenset(
    {
        Cause.NOT_RUNNING,
        Cause.NOBODY_LISTENING,
        Cause.REFUSED,
        Cause.OUT_OF_MEMORY,
        Cause.TIMED_OUT,
        Cause.UNREACHABLE,
    }
)
"""Causes that go away when a VM has booted or a service has started. A missing right or an unknown name stays."""

LOCAL_CAUSES = frozenset({Cause.OUT_OF_DESCRIPTORS, Cause.OUT_OF_MEMORY, Cause.BUSY})
"""Causes that say nothing about the upstream."""

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0
"""Seconds between tries, doubled from the first to the longest: quick at first, no storm while a VM boots."""

_QUEUE_FULL = "max_pending_dials of this forward are still waiting; find out why they hang, or raise it"


class UpstreamState:
    """What is known of an upstream, from dials and health checks.

    ``on_change`` is called with None when the upstream answers again, and with the error when it no longer does.
    """

    def __init__(self, on_change: Callable[[DialError | None], None] = lambda _: None) -> None:
        self._on_change = on_change
        self.is_known = False
        self.error: DialError | None = None
        """Why it is down."""

    def record(self, error: DialError | None) -> None:
        """Record that it has answered, or why it has not."""
        if error is None and self.is_known and self.error is None:  # as nearly always
            return
        if error is not None and error.cause in LOCAL_CAUSES:
            return
        before, self.error, self.is_known = self.error, error, True
        if (error is None) != (before is None):
            self._on_change(error)


class Dialer:
    """Dials one upstream for the connections of one forward.

    ``connect_nowait`` returns None where a dial must wait; ``dial`` has a deadline of its own, ``dial_timeout``.
    For ``wait`` seconds from its begin, a dial that failed by a retryable cause is tried again; ``start_vm`` starts the
    VM that was found off. Dials that must wait begin in the order in which they were asked for.
    """

    def __init__(
        self,
        upstream: Endpoint,
        dial: Callable[[], Awaitable[SocketStream]],
        *,
        dial_timeout: float,
        max_pending: int,
        connect_nowait: Callable[[], SocketStream | None] = lambda: None,
        wait: float = 0.0,
        start_vm: Callable[[], Awaitable[None]] | None = None,
        state: UpstreamState | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.upstream = upstream
        self._dial = dial
        self._connect_nowait = connect_nowait
        self._dial_timeout = dial_timeout
        self._pending = trio.Semaphore(max_pending)
        self._wait = wait
        self._start_vm = start_vm
        self._state = state or UpstreamState()
        self._jitter = jitter

    async def dial(self) -> SocketStream:
        """Return a connected stream, which the caller closes. Raises the `DialError` of the last try."""
        try:
            stream = self._connect_nowait() or await self._dial_in_turn()
        except DialError as error:
            self._state.record(error)
            if not self._wait or error.cause not in RETRYABLE:
                raise
            stream = await self._keep_dialling(error)
        self._state.record(None)
        return stream

    async def _keep_dialling(self, error: DialError) -> SocketStream:
        delay = _FIRST_DELAY
        with trio.move_on_after(self._wait):
            while True:
                if self._start_vm is not None and error.cause is Cause.NOT_RUNNING:
                    await self._start_vm()
                # Connections that came together must not come again together.
                await trio.sleep(self._jitter(delay / 2, delay))
                delay = min(2 * delay, _LONGEST_DELAY)
                try:
                    return await self._dial_in_turn()
                except DialError as again:
                    if again.cause not in RETRYABLE:
                        raise
                    error = again
        raise error

    async def _dial_in_turn(self) -> SocketStream:
        try:
            self._pending.acquire_nowait()  # acquire() would let dials that need not wait begin in any order
        except trio.WouldBlock:
            await self._wait_for_turn()
        try:
            return await self._dial()
        finally:
            self._pending.release()

    async def _wait_for_turn(self) -> None:
        with trio.move_on_after(self._dial_timeout):
            await self._pending.acquire()
            return
        raise DialError(self.upstream, Cause.BUSY, advice=_QUEUE_FULL)
