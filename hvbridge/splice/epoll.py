"""The splicer for Linux: one task moves the bytes of all connections, as their sockets become ready.

A connection's own task sleeps until the connection is over. Sockets are registered edge-triggered, so a `Pump` must
move bytes until a side would block.
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

from hvbridge.splice.busy_poll import MAX_EVENTS
from hvbridge.splice.close_rules import CLIENT, UPSTREAM, CloseState
from hvbridge.splice.direction import Progress, Shared
from hvbridge.splice.epoll_pump import Pump
from hvbridge.splice.limits import Limits
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.result import Transfer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import SocketStream, Stream

DATA = select.EPOLLIN
ROOM = select.EPOLLOUT
"""Asked for only while a pump is blocked: a Unix socket would report it after every message."""
ENDS = select.EPOLLRDHUP | select.EPOLLET
PEER_CLOSED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

TIME_SLICE = 0.002
"""Seconds of moving bytes before trio's other tasks have their turn."""


class EpollSplicer:
    """Splices connected sockets. Other streams, and those with a bandwidth limit, go to a `PortableSplicer`."""

    def __init__(self, timeouts: TimeoutQueue) -> None:
        self._timeouts = timeouts
        self._portable = PortableSplicer(timeouts)
        self._epoll = select.epoll()
        self._sockets: dict[int, _Socket] = {}
        """What is known of each registered descriptor."""
        self._unfinished: list[_Pump] = []
        self._shared = Shared()
        self._clock = trio.lowlevel.current_clock().current_time
        self._now = 0.0

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        """See `hvbridge.splice.Splicer.splice`."""
        if (
            limits.bandwidth < math.inf
            or not isinstance(client, SocketStream)
            or not isinstance(upstream, SocketStream)
            or client.plain is None  # a socket of a custom factory may have no descriptor
            or upstream.plain is None
        ):
            await self._portable.splice(client, upstream, limits, transfer)
            return
        connection = _Connection(self, client, upstream, limits, transfer, self._clock())
        try:
            self._register(connection)
            await trio.lowlevel.wait_task_rescheduled(connection.abandon)
        except BaseException:
            self.unregister(connection)
            client.abort()
            upstream.abort()
            raise

    async def run(self) -> None:
        """Move bytes until cancelled."""
        fd = self._epoll.fileno()
        is_busy = False
        try:
            while True:
                if is_busy or self._unfinished:
                    await trio.lowlevel.checkpoint()  # a fifth of the cost of wait_readable
                else:
                    await trio.lowlevel.wait_readable(fd)
                self._now = now = self._clock()
                end_of_slice = now + TIME_SLICE
                while (is_busy := self._turn(now)) and now < end_of_slice:
                    self._now = now = self._clock()
        finally:
            self._epoll.close()
            self._shared.pipes.close()

    def _turn(self, now: float) -> bool:
        """Serve everything that is ready. True if anything was."""
        unfinished, self._unfinished = self._unfinished, []
        ready = self._epoll.poll(0, MAX_EVENTS)
        if not (ready or unfinished):
            ready = self._shared.busy_poll.poll(self._epoll)
        socket_of = self._sockets.get
        for fd, events in ready:
            sock = socket_of(fd)
            if sock is None:  # its connection ended earlier in this turn
                continue
            try:
                if events != DATA:
                    self._on_events(sock, events)
                elif progress := sock.reader.move(now):  # most messages end here, with nothing to handle
                    self._handle(sock.reader, progress)
            except Exception as bug:  # ends one connection, not all
                sock.reader.connection.crash(bug)
        for pump in unfinished:
            try:
                self._run(pump)
            except Exception as bug:
                pump.connection.crash(bug)
        return bool(ready or unfinished)

    def _on_events(self, sock: "_Socket", events: int) -> None:
        reader, writer = sock.reader, sock.writer
        if events & PEER_CLOSED:
            reader.read_until_eagain = True  # the EOF has no event of its own
        if events & ~ROOM and not reader.blocked:
            self._run(reader)
        # A vsock peer that is gone makes no room; only its end is reported.
        if events & ~DATA and writer.blocked:
            self._run(writer)
        if events & select.EPOLLERR and not writer.done:
            self._on_socket_error(writer)

    def _run(self, pump: "_Pump") -> None:
        was_blocked = pump.blocked
        if progress := pump.move(self._now):
            self._handle(pump, progress)
        if was_blocked and not pump.blocked:
            self._update_interest(pump)

    def _handle(self, pump: "_Pump", progress: Progress) -> None:
        """Act on what a move of ``pump`` came to."""
        if progress is Progress.EOF:
            self._on_eof(pump, None)
        elif progress is Progress.BLOCKED:
            self._update_interest(pump)
        elif progress is Progress.UNFINISHED:
            self._unfinished.append(pump)
        elif progress is Progress.READ_ERROR:
            self._on_eof(pump, pump.error)
        elif progress is Progress.WRITE_ERROR:
            self._on_write_error(pump, pump.error)

    def _update_interest(self, pump: "_Pump") -> None:
        """Ask for room while ``pump`` is blocked, and for data while it is not. Changes only what must change."""
        for fd in (pump.src, pump.dst):
            sock = self._sockets.get(fd)
            if sock is None:  # the connection is over
                return
            interest = ENDS
            if not (sock.reader.blocked or sock.reader.done):
                interest |= DATA
            if sock.writer.blocked:
                interest |= ROOM
            if interest != sock.interest:
                sock.interest = interest
                self._epoll.modify(fd, interest)

    def _on_eof(self, pump: "_Pump", error: OSError | None) -> None:
        """The source of ``pump`` gave no more: a read returned nothing, or failed with ``error``."""
        connection, side, sink = pump.connection, pump.side, pump.sink
        try:
            if error is None:
                pump.source.read_ended()
            else:
                pump.source.read_failed(error)
        except OSError as read_error:
            connection.on_read_error(side, read_error)
            return
        closes_now = connection.half_closed and sink.close_ends_data
        if not connection.reset and not closes_now:  # after a reset, this EOF is not a clean one
            try:
                sink.shut_down_writing()
            except OSError as write_error:
                self._on_write_error(pump, write_error)
                return
        pump.stop()
        connection.on_eof(side, self._now)
        if not connection.over:
            self._timeouts.add(connection)

    def _on_write_error(self, pump: "_Pump", error: OSError) -> None:
        """The sink of ``pump`` takes no more."""
        pump.stop()
        pump.connection.on_write_error(1 - pump.side, error, self._now)
        self._timeouts.add(pump.connection)

    def _on_socket_error(self, writer: "_Pump") -> None:
        """The socket that ``writer`` writes failed, while data it sent before waits for the other side to take it.

        This is the same as a failed write: the direction to the socket ends, the one from it lives on.
        """
        assert writer.sink.plain is not None
        code = writer.sink.plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._on_write_error(writer, OSError(code, os.strerror(code)))

    def _register(self, connection: "_Connection") -> None:
        client, upstream = connection.streams
        up = Pump(connection, CLIENT, client, upstream, self._shared)
        down = Pump(connection, UPSTREAM, upstream, client, self._shared)
        connection.pumps = up, down
        self._timeouts.add(connection)
        for reader, writer in ((up, down), (down, up)):
            self._sockets[reader.src] = sock = _Socket(reader, writer)
            self._epoll.register(reader.src, sock.interest)
        self._shared.busy_poll.pause()

    def unregister(self, connection: "_Connection") -> None:
        """Forget ``connection``. The caller closes its sockets, which also removes them from the epoll."""
        pumps, connection.pumps = connection.pumps, ()
        for pump in pumps:
            self._sockets.pop(pump.src, None)
            if not pump.done:
                pump.stop()
        self._timeouts.discard(connection)


class _Socket:
    """A registered socket: the pump that reads it, the pump that writes it, and the events that are asked for."""

    __slots__ = ("interest", "reader", "writer")

    def __init__(self, reader: "_Pump", writer: "_Pump") -> None:
        self.reader = reader
        self.writer = writer
        self.interest = ENDS | DATA


class _Connection(CloseState):
    """A connection whose task wakes when it is over."""

    __slots__ = ("_splicer", "_task", "pumps", "streams")

    def __init__(
        self,
        splicer: EpollSplicer,
        client: SocketStream,
        upstream: SocketStream,
        limits: Limits,
        transfer: Transfer,
        now: float,
    ) -> None:
        super().__init__(limits, transfer, now)
        self.streams = client, upstream
        self.pumps: tuple[_Pump, ...] = ()
        self._splicer = splicer
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def finish(self) -> None:
        self._splicer.unregister(self)
        for stream in self.streams:
            if self.reset:
                stream.abort()
            else:
                stream.close()
        self._wake(outcome.Value(None))

    def crash(self, bug: Exception) -> None:
        """End by raising ``bug`` from `EpollSplicer.splice`, which closes both sides."""
        self._release()
        self._wake(outcome.Error(bug))

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """End because the connection's task was cancelled; `EpollSplicer.splice` closes both sides."""
        self._release()
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _release(self) -> None:
        self.over = True
        self.transfer.end = None
        self._splicer.unregister(self)

    def _wake(self, result: outcome.Outcome[None]) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None


_Pump = Pump[_Connection]
