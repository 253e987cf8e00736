"""The way of one connection: accept → admit → dial → splice → account.

Owns: that order, what is open, and exactly one closing record for each connection. Refuses: the config, how many
may come (`gate`), how bytes move (`splice`), how an upstream is reached (`dialer`), and where records go.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import trio

from hvbridge.dialer import Dialer
from hvbridge.endpoint import Endpoint
from hvbridge.gate import Gate
from hvbridge.introduction import Introduction
from hvbridge.sources import Sources
from hvbridge.splice import Limits, Reason, Splicer, Transfer
from hvbridge.stream import SocketStream
from hvbridge.transport.errors import DialError
from hvbridge.transport.sockets import HandshakeError, Listener, is_exhausted
from hvbridge.workers import Workers

_ids = itertools.count(1)

NOTHING: AbstractContextManager[None] = nullcontext()
"""What a connection holds that needs nothing but its upstream's answer."""

_BATCH = 64
"""Connections accepted in one go; then the others have their turn."""
_EXHAUSTED_PAUSE = 0.1
"""Seconds until a connection may have closed, when descriptors or memory have run out."""


@dataclass(slots=True)
class Record:
    """What is known of one connection; whole once it has closed."""

    forward: str
    peer: str
    """Who connected, as far as its transport tells: an address, a VM, a path."""
    upstream: Endpoint
    accepted: float
    """When it was accepted, on trio's clock."""
    dial_seconds: float | None = None
    """How long the dial took; None when no upstream was reached."""
    seconds: float = 0.0
    """From accept to close."""
    transfer: Transfer = field(default_factory=Transfer)
    """Bytes each way, and why it ended."""
    bug: Exception | None = None
    """An exception that no peer can cause: a fault of this program."""
    is_unwanted: bool = False
    """Whether it is to be closed as soon as it has been dialled."""
    id: int = field(default_factory=_ids.__next__)
    """Counts the connections of this process, from 1."""


@dataclass(frozen=True, slots=True)
class Way:
    """What a connection meets after it has been accepted."""

    dialer: Dialer
    limits: Limits
    gate: Gate
    sources: Sources | None = None
    """Who may connect; None is everyone who can reach the listener."""
    hold: AbstractContextManager[None] = NOTHING
    """Entered, by many at once, for as long as a connection needs its upstream."""
    introduction: Introduction | None = None
    """How it is heard, and told, who the client is."""


class Forward:
    """Serves listeners by splicing each connection with a dialled upstream.

    ``way`` may be replaced at any time: connections accepted from then on go the new one. ``account`` is called once
    for each connection, after it has closed, and must not raise. ``exhausted`` hears once that accepting pauses, for
    want of descriptors or memory.
    """

    def __init__(
        self,
        name: str,
        way: Way,
        splicer: Splicer,
        *,
        account: Callable[[Record], None],
        exhausted: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.way = way
        self.open: dict[int, Record] = {}
        """The connections that have not closed yet, by their ids; their counters are live."""
        self._splicer = splicer
        self._account = account
        self._exhausted = exhausted
        self._now: Callable[[], float]
        """trio's clock; `trio.current_time` looks for it each time."""

    async def serve(self, listeners: Sequence[Listener], connections: trio.Nursery) -> None:
        """Accept until cancelled; the connections live on in ``connections``, and the caller closes the listeners."""
        self._now = trio.lowlevel.current_clock().current_time
        with Workers(connections) as workers:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, workers)

    async def _accept(self, listener: Listener, workers: Workers) -> None:
        # trio.serve_listeners would take connections one by one, at a third of the speed; its manners are kept.
        is_exhausted_told = False
        while True:
            await listener.wait()
            await self.way.gate.wait()
            way = self.way
            try:
                clients = listener.take(way.gate.take(_BATCH))
            except OSError as error:
                if not is_exhausted(error):
                    raise
                if not is_exhausted_told:
                    self._exhausted(error)
                is_exhausted_told = True
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            is_exhausted_told = False
            now = self._now()
            for client in clients:
                record = Record(self.name, client.peer, way.dialer.upstream, now)
                if no_room := way.gate.enter():
                    client.abort()
                    record.transfer.reason, record.transfer.detail = Reason.REFUSED, no_room
                    self._account(record)
                else:
                    self.open[record.id] = record
                    workers.start_soon(self._connection, client, record, way)

    async def _connection(self, client: SocketStream, record: Record, way: Way) -> None:
        transfer = record.transfer
        try:
            await client.do_handshake()
            heard = None if way.introduction is None else await way.introduction.hear(client)
            record.peer = client.peer
            if way.sources is not None and not way.sources.admits(client.origin):
                raise _RefusedError("allow does not name where it comes from")
            with way.hold:
                upstream = await way.dialer.dial()  # in this task: a hanging dial keeps nobody else waiting
                record.dial_seconds = self._now() - record.accepted
                if way.introduction is not None:
                    await way.introduction.tell(client, heard, upstream)
                if record.is_unwanted:
                    upstream.abort()
                    raise _UnwantedError
                await self._splicer.splice(client, upstream, way.limits, transfer)
        except _RefusedError as error:
            transfer.reason, transfer.detail = Reason.REFUSED, str(error)
        except _UnwantedError:
            transfer.reason = Reason.CLOSED_BY_ADMIN
        except HandshakeError as error:
            transfer.reason, transfer.detail = Reason.ERROR_ON_CLIENT, str(error)
        except DialError as error:
            transfer.reason, transfer.detail = Reason.DIAL_FAILED, str(error)
        except trio.BrokenResourceError as error:
            transfer.reason, transfer.detail = Reason.RESET_BY_UPSTREAM, str(error)
        except trio.Cancelled:
            transfer.reason = Reason.SHUTDOWN
            raise
        except Exception as error:  # one connection's bug must not end the others
            transfer.reason, transfer.detail = Reason.INTERNAL_ERROR, repr(error)
            record.bug = error
        finally:
            client.abort()  # does nothing after the splice, which has closed it already
            way.gate.leave()
            del self.open[record.id]
            record.seconds = self._now() - record.accepted
            self._account(record)

    def close(self, connection: int) -> bool:
        """Close one connection, or note that it is to be closed once it is dialled; False where it is not open."""
        record = self.open.get(connection)
        if record is None:
            return False
        if record.transfer.end is None:
            record.is_unwanted = True
        else:
            record.transfer.end(Reason.CLOSED_BY_ADMIN, "")
        return True


class _RefusedError(Exception):
    """The client may not connect."""


class _UnwantedError(Exception):
    """The connection was closed before it was spliced."""
