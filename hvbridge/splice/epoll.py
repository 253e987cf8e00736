"""The splice on Linux: one task moves the bytes of all connections, as their sockets become ready.

Owns: the epoll instance, and turning its events into the moves of pumps and the fates of pairs. Refuses: how
bytes move (`pump`), and the rules of ending (`pair`).

A connection's own task sleeps until its pair is over; cancelling it abandons the pair. Each socket is
registered once, edge-triggered: a pump goes on until it must wait, and so every event is news.
"""

# ruff: noqa: E402  (the assertion must come first, so that nothing below is type-checked for other systems)

import math
import os
import select
import socket
import sys

import outcome
import trio

assert sys.platform == "linux"

from hvbridge.splice.bulk_pump import (
    BLOCKED,
    ENDED,
    READ_FAILED,
    UNFINISHED,
    WRITE_FAILED,
    Shared,
)
from hvbridge.splice.close_rules import CLIENT, UPSTREAM, Pair
from hvbridge.splice.epoll_pump import Pump
from hvbridge.splice.limits import Limits
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.result import Transfer
from hvbridge.splice.timeouts import Watch
from hvbridge.transport.stream import SocketStream, Stream

_DATA = select.EPOLLIN
_ENDS = select.EPOLLRDHUP | select.EPOLLET
_ENDS_OR_DATA = _ENDS | _DATA
_ROOM = select.EPOLLOUT
"""Asked for only while a socket blocks a pump: a Unix socket would tell of it after every message."""
_NO_MORE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EVENTS_AT_ONCE = 256

_FEW_LOOKS, _MANY_LOOKS = (16, 100) if (os.cpu_count() or 1) > 1 else (0, 0)
"""Looks at an epoll with nothing ready: some 5 and some 30 µs. On a machine with one CPU nobody answers meanwhile."""
_WAITS_OF_BULK = 16
"""Times that the plane does not look after bulk has moved."""
_SOON = 0.001
"""Seconds within which more bulk is awaited here and not by trio: the least that epoll can be told."""
_VAIN = 200
"""Short waits through trio until it waits here again, after it did in vain: as where a task of this very loop sends."""

_SLICE = 0.002
"""Seconds that the plane goes on while sockets are ready, before trio's other tasks have their turn."""


class EpollSplicer:
    """Splices connected sockets. Other streams go the portable way, and so do those whose speed is limited."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._portable = PortableSplicer(watch)
        self._epoll = select.epoll()
        self._pumps: dict[int, tuple[_Pump, _Pump]] = {}
        """For each socket, the pump that reads it and the pump that writes it."""
        self._unfinished: list[_Pump] = []
        self._shared = Shared()
        self._clock = trio.lowlevel.current_clock().current_time
        self._now = 0.0
        self._looks = _FEW_LOOKS
        self._trust = 0
        """Whether to wait here for more bulk: 1 after a short wait through trio, and far below 0 after one in vain."""

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        """See `hvbridge.splice.Splicer.splice`."""
        # A trio socket of a custom factory may have no descriptor, or mean something else by it.
        if (
            limits.bandwidth < math.inf
            or not isinstance(client, SocketStream)
            or not isinstance(upstream, SocketStream)
            or (ours := client.plain) is None
            or (theirs := upstream.plain) is None
        ):
            await self._portable.splice(client, upstream, limits, transfer)
            return
        pair = _Pair(self, client, upstream, limits, transfer, self._clock())
        try:
            self._enter(pair, ours.fileno(), theirs.fileno())
            await trio.lowlevel.wait_task_rescheduled(pair.abandon)
        except BaseException:
            self.leave(pair)
            client.abort()
            upstream.abort()
            raise

    # The plane's own task.

    async def run(self) -> None:
        """Move bytes until cancelled."""
        descriptor = self._epoll.fileno()
        is_busy = False
        try:
            while True:
                if is_busy or self._unfinished:
                    await trio.lowlevel.checkpoint()  # costs a fifth of a wait
                    self._now = now = self._clock()
                else:
                    await trio.lowlevel.wait_readable(descriptor)
                    now = self._clock()
                    self._trust = min(self._trust + 1, 1) if now < self._now + _SOON else min(self._trust, 0)
                    self._now = now
                others_turn = now + _SLICE
                while (is_busy := self._turn(now)) and now < others_turn:
                    self._now = now = self._clock()
        finally:
            self._epoll.close()
            self._shared.pipes.close()

    def _turn(self, now: float) -> bool:
        """Serve all that is ready, and say whether anything was."""
        unfinished, self._unfinished = self._unfinished, []
        ready = self._epoll.poll(0, _EVENTS_AT_ONCE)
        if not (ready or unfinished):
            ready = self._linger()
        for fd, events in ready:
            pumps = self._pumps.get(fd)
            if pumps is None:  # its pair ended earlier in this turn
                continue
            try:
                if events != _DATA:
                    self._ready(pumps, events)
                elif state := pumps[0].move(now):  # 0 where a message has been passed on, the most common
                    self._conclude(pumps[0], state)
            except Exception as bug:  # ends this connection by itself, not all of them
                pumps[0].pair.crash(bug)
        for pump in unfinished:
            try:
                self._go(pump)
            except Exception as bug:
                pump.pair.crash(bug)
        return bool(ready or unfinished)

    def _linger(self) -> list[tuple[int, int]]:
        """Look some times more before the plane's task waits: an answer is often on its way.

        Waiting costs as much as `_FEW_LOOKS`, and more where a CPU that went to sleep must wake. So it looks that
        often, and up to `_MANY_LOOKS` for as long as that has just paid. It does not look after a connection has come,
        for the next is trio's to take; nor while bulk moves, for what comes in the time that waiting takes is moved in
        one go. Where more bulk comes soon, it waits right here, and trio's other tasks with it.
        """
        if self._shared.streams:
            self._shared.streams = False
            self._looks = -_WAITS_OF_BULK
        if self._looks < 0 and self._trust > 0:
            self._looks += 1
            ready = self._epoll.poll(_SOON, _EVENTS_AT_ONCE)
            if not ready:
                self._trust = -_VAIN
            return ready
        for _ in range(self._looks):
            if ready := self._epoll.poll(0, _EVENTS_AT_ONCE):
                self._looks = _MANY_LOOKS
                return ready
        self._looks = min(self._looks + 1, _FEW_LOOKS) if self._looks < _FEW_LOOKS else self._looks * 7 // 8
        return []

    def _ready(self, pumps: "tuple[_Pump, _Pump]", events: int) -> None:
        """Serve ``events`` of the socket that the first of ``pumps`` reads and the second writes."""
        reader, writer = pumps
        if events & _NO_MORE:
            reader.thorough = True
        if events & ~_ROOM:
            self._go(reader)
        if writer.blocked:
            # A vsock peer that is gone makes no room, and tells by its end alone.
            if events & ~_DATA:
                writer.blocked = False
                self._go(writer)
                if writer.muted and not (writer.blocked or writer.done):
                    writer.muted = False
                    self._ask(writer.src)
        elif events & _ROOM and writer.armed and not writer.done:
            writer.armed = False
            self._ask(writer.dst)
        if events & select.EPOLLERR and not writer.done:
            self._broken(writer)

    def _go(self, pump: "_Pump") -> None:
        """Let ``pump`` move, and draw the conclusions."""
        if state := pump.move(self._now):
            self._conclude(pump, state)

    def _conclude(self, pump: "_Pump", state: int) -> None:
        if state == ENDED:
            self._ended(pump, None)
        elif state == BLOCKED:
            self._await_room(pump)
        elif state == UNFINISHED:
            self._unfinished.append(pump)
        elif state == READ_FAILED:
            self._ended(pump, pump.error)
        elif state == WRITE_FAILED:
            self._refused(pump, pump.error)

    def _await_room(self, pump: "_Pump") -> None:
        if pump.blocked and not pump.muted:  # its source has told of more, and would do so again and again
            pump.muted = True
            self._ask(pump.src)
        pump.blocked = True
        if not pump.armed:
            pump.armed = True
            self._ask(pump.dst)

    def _ask(self, fd: int) -> None:
        """Let the epoll tell what is wanted of a socket."""
        reader, writer = self._pumps[fd]
        events = _ENDS
        if not reader.muted:
            events |= _DATA
        if writer.armed:
            events |= _ROOM
        self._epoll.modify(fd, events)

    def _ended(self, pump: "_Pump", error: OSError | None) -> None:
        """The side that ``pump`` reads gave no more: by a read of nothing, or a failed one."""
        pair, side, sink = pump.pair, pump.side, pump.sink
        try:
            if error is None:
                pump.source.read_ended()
            else:
                pump.source.read_failed(error)
        except OSError as verdict:
            pair.lost(side, verdict)
            return
        closes_now = pair.half_closed and sink.close_ends_data
        if not pair.cut and not closes_now:  # when cut, the end is no clean one, whatever it looks like
            try:
                sink.shut_down_writing()
            except OSError as refusal:
                self._refused(pump, refusal)
                return
        pump.stop()
        pair.ended(side, self._now)
        if not pair.over:
            self._watch.look_after(pair)

    def _refused(self, pump: "_Pump", error: OSError) -> None:
        """The side that ``pump`` writes takes no more."""
        pump.stop()
        pump.pair.refused(1 - pump.side, error, self._now)
        self._watch.look_after(pump.pair)

    def _broken(self, writer: "_Pump") -> None:
        """A socket failed, but what it received before still waits for the other side to take it.

        It is the same as a failed write: the direction to it is at its end, the one from it lives on.
        """
        assert writer.sink.plain is not None
        code = writer.sink.plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._refused(writer, OSError(code, os.strerror(code)))

    # Connections come and go.

    def _enter(self, pair: "_Pair", ours: int, theirs: int) -> None:
        client, upstream = pair.streams
        up = Pump(pair, CLIENT, client, upstream, ours, theirs, self._shared)
        down = Pump(pair, UPSTREAM, upstream, client, theirs, ours, self._shared)
        self._pumps[ours] = pair.pumps = up, down
        self._pumps[theirs] = down, up
        self._watch.look_after(pair)
        self._epoll.register(ours, _ENDS_OR_DATA)
        self._epoll.register(theirs, _ENDS_OR_DATA)
        if self._looks > 0:
            self._looks = 0

    def leave(self, pair: "_Pair") -> None:
        """Forget ``pair``, whose sockets its caller then closes, which also takes them out of the epoll."""
        pumps, pair.pumps = pair.pumps, ()
        for pump in pumps:
            del self._pumps[pump.src]
            if not pump.done:
                pump.stop()
        self._watch.forget(pair)


class _Pair(Pair):
    """A pair at whose end its connection's task wakes."""

    __slots__ = ("_plane", "_task", "pumps", "streams")

    def __init__(
        self,
        plane: EpollSplicer,
        client: SocketStream,
        upstream: SocketStream,
        limits: Limits,
        transfer: Transfer,
        now: float,
    ) -> None:
        super().__init__(limits, transfer, now)
        self.streams = client, upstream
        self.pumps: tuple[_Pump, ...] = ()
        self._plane = plane
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def finish(self) -> None:
        self._plane.leave(self)
        for stream in self.streams:
            if self.cut:
                stream.abort()
            else:
                stream.close()
        self._wake(outcome.Value(None))

    def crash(self, bug: Exception) -> None:
        """End with an exception out of the connection's splice."""
        self.over = True
        self.transfer.end = None
        self._plane.leave(self)
        self._wake(outcome.Error(bug))

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """The connection's task is cancelled, and closes both sides itself."""
        self.over = True
        self.transfer.end = None
        self._task = None
        self._plane.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self, result: outcome.Outcome[None]) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None


_Pump = Pump[_Pair]
