"""The splicer for every system and every stream: two pumps per connection, each a loop of receive and send.

A pump holds a buffer only while data moves, wherever its stream can wait without one. It receives again only after
everything was sent, which is the backpressure. Activity counts per buffer, so a connection that takes longer for
one buffer than an idle timeout lasts is reset.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from hvbridge.splice.close_rules import CLIENT, UPSTREAM, CloseState
from hvbridge.splice.limits import Limits
from hvbridge.splice.pace import Pace
from hvbridge.splice.result import Transfer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import Stream

_BUFFER_SIZE = 128 * 1024
"""Bytes per read: what WSL's own Hyper-V relays use. More gains nothing over local sockets."""

_BANDWIDTH_STEP = 0.1
"""Seconds of a limited bandwidth that move in one read."""

_SPARE_BUFFERS = 32
"""Unused buffers that are kept (4 MiB)."""


class PortableSplicer:
    """Splices streams of any kind."""

    def __init__(self, timeouts: TimeoutQueue) -> None:
        self._timeouts = timeouts
        self._spare_buffers: list[memoryview] = []

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        """See `hvbridge.splice.Splicer.splice`."""
        scope = trio.CancelScope()
        connection = _Connection(scope, limits, transfer, trio.current_time())
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    self._timeouts.add(connection)
                    nursery.start_soon(self._pump, connection, CLIENT, client, upstream)
                    await self._pump(connection, UPSTREAM, upstream, client)
            if not connection.reset:
                try:
                    await client.aclose()
                finally:
                    await upstream.aclose()
        except BaseExceptionGroup as group:
            _, bugs = group.split(trio.Cancelled)
            raise _first(bugs or group) from None  # callers need not know of two pumps
        finally:
            transfer.end = None
            self._timeouts.discard(connection)
            client.abort()  # does nothing if closed
            upstream.abort()

    async def _pump(self, connection: "_Connection", side: int, src: Stream, dst: Stream) -> None:
        """Move the data of ``side`` until it ends or fails, and report which to ``connection``."""
        try:
            while await self._move(connection, side, src, dst):
                pass
            if not connection.reset:  # if set, this EOF is not a clean one
                await _pass_on(None, dst)
        except _WriteError as failure:
            connection.on_write_error(1 - side, failure.cause, trio.current_time())
        except trio.BrokenResourceError as failure:
            connection.on_read_error(side, _cause(failure))
        else:
            connection.on_eof(side, trio.current_time())
        self._timeouts.add(connection)  # the half-close timeout counts from now

    async def _move(self, connection: "_Connection", side: int, src: Stream, dst: Stream) -> int:
        """Move one buffer, and return how many bytes it held."""
        await src.wait_receive_might_not_block()
        with self._buffer() as buffer:
            received = await src.receive_into(buffer[: connection.read_size])
            if received:
                connection.received(side, received, trio.current_time())
                await _pass_on(buffer[:received], dst)
                connection.last_activity = trio.current_time()
        if connection.limits.bandwidth < math.inf:
            await trio.sleep_until(connection.paces[side].due(received, trio.current_time()))
        return received

    @contextmanager
    def _buffer(self) -> Iterator[memoryview]:
        buffer = self._spare_buffers.pop() if self._spare_buffers else memoryview(bytearray(_BUFFER_SIZE))
        try:
            yield buffer
        finally:
            if len(self._spare_buffers) < _SPARE_BUFFERS:
                self._spare_buffers.append(buffer)


class _Connection(CloseState):
    """A connection that ends by the cancellation of its pumps."""

    __slots__ = ("_scope", "paces", "read_size")

    def __init__(self, scope: trio.CancelScope, limits: Limits, transfer: Transfer, now: float) -> None:
        super().__init__(limits, transfer, now)
        self._scope = scope
        self.paces = Pace(limits.bandwidth, now), Pace(limits.bandwidth, now)
        """Of each direction."""
        self.read_size = math.ceil(min(_BUFFER_SIZE, limits.bandwidth * _BANDWIDTH_STEP))

    def finish(self) -> None:
        self._scope.cancel()


class _WriteError(Exception):
    """A write failed, which has other consequences than a failed read."""

    def __init__(self, cause: OSError | None) -> None:
        self.cause = cause


async def _pass_on(data: memoryview | None, dst: Stream) -> None:
    """Send ``data``, or EOF if it is None."""
    try:
        if data is None:
            await dst.send_eof()
        else:
            await dst.send_all(data)
    except trio.BrokenResourceError as error:
        raise _WriteError(_cause(error)) from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _cause(error: trio.BrokenResourceError) -> OSError | None:
    return error.__cause__ if isinstance(error.__cause__, OSError) else None
