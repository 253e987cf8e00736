"""How a forward reaches its upstream: in turn, again while it is worth waiting, and by starting its VM.

Owns: which failures pass by themselves, backoff, and telling of an upstream's change once. Refuses: the
connection that waits (`forward`), how a dial is made (it is given one), and how a VM is started (`power`).
"""

import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from hvbridge.endpoint import Endpoint
from hvbridge.slots import Slots
from hvbridge.stream import SocketStream
from hvbridge.transport.errors import Cause, DialError

_PASSING = frozenset(
    {
        Cause.NOT_RUNNING,
        Cause.NOBODY_LISTENING,
        Cause.REFUSED,
        Cause.OUT_OF_MEMORY,
        Cause.TIMED_OUT,
        Cause.UNREACHABLE,
    }
)
"""Causes that a VM's boot, or a service's start, mends. A missing right or an unknown name stays."""

_OURS = frozenset({Cause.OUT_OF_DESCRIPTORS, Cause.OUT_OF_MEMORY, Cause.BUSY})
"""Causes that say nothing about the upstream."""

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0
"""Seconds between tries, doubled from the first to the longest: quick at first, no storm while a VM boots."""

_QUEUE_FULL = "max_pending_dials of this forward were still waiting; find out why they hang, or raise it"


class Starter(Protocol):
    """Starts what an upstream runs on."""

    async def start(self) -> None:
        """Start it, or find it starting. Raises `DialError` when that cannot be."""


class UpstreamState:
    """What is known of an upstream, from dials and health checks.

    ``on_change`` hears None when the upstream answers again, and the error when it no longer does; once each.
    """

    def __init__(self, on_change: Callable[[DialError | None], None] = lambda _: None) -> None:
        self._on_change = on_change
        self.is_known = False
        self.error: DialError | None = None
        """Why it is down."""

    def note(self, error: DialError | None) -> None:
        """Take in that it has answered, or why it has not."""
        if error is None and self.is_known and self.error is None:  # as nearly always
            return
        if error is not None and error.cause in _OURS:
            return
        before, self.error, self.is_known = self.error, error, True
        if (error is None) != (before is None):
            self._on_change(error)


class Dialer:
    """Dials one upstream for the connections of one forward.

    ``dial_at_once`` returns None where a dial must wait; ``dial`` has a deadline of its own, ``dial_timeout``.
    For ``wait`` seconds from its begin, a dial that failed by a passing cause is tried again.
    """

    def __init__(
        self,
        upstream: Endpoint,
        dial: Callable[[], Awaitable[SocketStream]],
        *,
        dial_timeout: float,
        max_pending: int,
        dial_at_once: Callable[[], SocketStream | None] = lambda: None,
        wait: float = 0.0,
        starter: Starter | None = None,
        state: UpstreamState | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.upstream = upstream
        self._dial = dial
        self._dial_at_once = dial_at_once
        self._dial_timeout = dial_timeout
        self._slots = Slots(max_pending)
        self._wait = wait
        self._starter = starter
        self._state = state or UpstreamState()
        self._jitter = jitter

    async def dial(self) -> SocketStream:
        """Return a connected stream, which the caller closes. Raises the `DialError` of the last try."""
        try:
            stream = self._dial_at_once() or await self._dial_in_turn()
        except DialError as error:
            self._state.note(error)
            if not self._wait or error.cause not in _PASSING:
                raise
            stream = await self._keep_dialling(error)
        self._state.note(None)
        return stream

    async def _keep_dialling(self, error: DialError) -> SocketStream:
        delay = _FIRST_DELAY
        with trio.move_on_after(self._wait):
            while True:
                if self._starter is not None and error.cause is Cause.NOT_RUNNING:
                    await self._starter.start()
                # Connections that came together must not come again together.
                await trio.sleep(self._jitter(delay / 2, delay))
                delay = min(2 * delay, _LONGEST_DELAY)
                try:
                    return await self._dial_in_turn()
                except DialError as again:
                    if again.cause not in _PASSING:
                        raise
                    error = again
        raise error

    async def _dial_in_turn(self) -> SocketStream:
        if self._slots.free <= 0:
            await self._wait_for_turn()
        self._slots.free -= 1
        try:
            return await self._dial()
        finally:
            self._slots.leave()

    async def _wait_for_turn(self) -> None:
        with trio.move_on_after(self._dial_timeout):
            await self._slots.wait()
            return
        raise DialError(self.upstream, Cause.BUSY, advice=_QUEUE_FULL)
