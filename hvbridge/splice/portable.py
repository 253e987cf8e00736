"""The splice on every system and over every stream: two pumps, each a loop of receive and send.

Owns: the pumps and their buffers. A pump waits without a buffer wherever its stream can, so that an idle
connection holds none; it receives only after it has sent, which is the backpressure. A buffer counts as moved
once all of it is sent, so a limit may cut a connection that takes longer for one than the limit lasts.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from hvbridge.splice.close_rules import CLIENT, UPSTREAM, Pair
from hvbridge.splice.limits import Limits
from hvbridge.splice.result import Transfer
from hvbridge.splice.timeouts import Watch
from hvbridge.transport.stream import Stream

_BUFFER_SIZE = 128 * 1024
"""Bytes of a read: what WSL's own Hyper-V relays use; more gains nothing over local sockets."""

_STEP = 0.1
"""Seconds of a limited bandwidth that move at once."""

_SPARE_BUFFERS = 32
"""Buffers kept for reuse (4 MiB); more are made while more are in use."""


class PortableSplicer:
    """Splices streams of any kind."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._spare: list[memoryview] = []

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        """See `hvbridge.splice.Splicer.splice`."""
        pair = _Pair(limits, transfer, trio.current_time())
        try:
            async with trio.open_nursery() as nursery:
                pair.scope = nursery.cancel_scope
                self._watch.look_after(pair)
                nursery.start_soon(self._pump, pair, CLIENT, client, upstream)
                await self._pump(pair, UPSTREAM, upstream, client)
            if not pair.cut:
                try:
                    await client.aclose()
                finally:
                    await upstream.aclose()
        except BaseExceptionGroup as group:
            _, bugs = group.split(trio.Cancelled)
            raise _first(bugs or group) from None  # two pumps are no concern of the caller's
        finally:
            transfer.end = None
            self._watch.forget(pair)
            client.abort()  # nothing happens to what is closed
            upstream.abort()

    async def _pump(self, pair: "_Pair", side: int, src: Stream, dst: Stream) -> None:
        """Move the data of ``side`` until it ends or fails, and tell the pair which."""
        try:
            while await self._move(pair, side, src, dst):
                pass
            if not pair.cut:  # else the end is not a clean one, whatever it looks like
                await _pass_on(None, dst)
        except _RefusedError as failure:
            pair.refused(1 - side, failure.cause, trio.current_time())
        except trio.BrokenResourceError as failure:
            pair.lost(side, _cause(failure))
        else:
            pair.ended(side, trio.current_time())
        self._watch.look_after(pair)  # the half-close timeout counts from now

    async def _move(self, pair: "_Pair", side: int, src: Stream, dst: Stream) -> int:
        """Move what comes next, and return how much it was."""
        await src.wait_receive_might_not_block()
        with self._buffer() as buffer:
            received = await src.receive_into(buffer[: pair.reach])
            if received:
                pair.received(side, received, trio.current_time())
                await _pass_on(buffer[:received], dst)
                pair.active = trio.current_time()
        if pair.limits.bandwidth < math.inf:
            await trio.sleep(received / pair.limits.bandwidth)
        return received

    @contextmanager
    def _buffer(self) -> Iterator[memoryview]:
        buffer = self._spare.pop() if self._spare else memoryview(bytearray(_BUFFER_SIZE))
        try:
            yield buffer
        finally:
            if len(self._spare) < _SPARE_BUFFERS:
                self._spare.append(buffer)


class _Pair(Pair):
    """A pair that ends by the cancellation of its pumps."""

    __slots__ = ("reach", "scope")
    scope: trio.CancelScope

    def __init__(self, limits: Limits, transfer: Transfer, now: float) -> None:
        super().__init__(limits, transfer, now)
        self.reach = math.ceil(min(_BUFFER_SIZE, limits.bandwidth * _STEP))
        """Bytes of a read."""

    def finish(self) -> None:
        self.scope.cancel()


class _RefusedError(Exception):
    """The side written to takes no more."""

    def __init__(self, cause: OSError | None) -> None:
        self.cause = cause


async def _pass_on(data: memoryview | None, dst: Stream) -> None:
    """Send ``data``, or the end of data."""
    try:
        if data is None:
            await dst.send_eof()
        else:
            await dst.send_all(data)
    except trio.BrokenResourceError as error:
        raise _RefusedError(_cause(error)) from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _cause(error: trio.BrokenResourceError) -> OSError | None:
    return error.__cause__ if isinstance(error.__cause__, OSError) else None
