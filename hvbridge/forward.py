"""The way of one connection: accept → admit → dial → splice → account.

Owns: that order, a forward's limits, and exactly one closing record for each connection. Refuses: the
config, how bytes move (`splice`), how an upstream is reached (`dialer`), and where records go.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import trio

from hvbridge.dialer import Dialer
from hvbridge.endpoint import Endpoint
from hvbridge.slots import Slots
from hvbridge.splice import Limits, Reason, Splicer, Transfer
from hvbridge.stream import SocketStream
from hvbridge.transport.errors import DialError
from hvbridge.transport.sockets import HandshakeError, Listener, is_exhausted

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
    id: int = field(default_factory=_ids.__next__)
    """Counts the connections of this process, from 1."""


class Forward:
    """Serves listeners by splicing each connection with a dialled upstream.

    ``account`` is called once for each connection, after it has closed, and must not raise. ``exhausted``
    hears once that accepting pauses, for want of descriptors or memory. ``hold`` is entered, by many at
    once, for as long as a connection needs its upstream.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        splicer: Splicer,
        limits: Limits,
        *,
        max_connections: int,
        account: Callable[[Record], None],
        exhausted: Callable[[OSError], None] = lambda _: None,
        hold: AbstractContextManager[None] = NOTHING,
    ) -> None:
        self.name = name
        self._dialer = dialer
        self._splicer = splicer
        self._limits = limits
        self._places = Slots(max_connections)  # above them, connections wait in the kernel's backlog
        self._account = account
        self._exhausted = exhausted
        self._hold = hold

    async def serve(self, listeners: Sequence[Listener], connections: trio.Nursery) -> None:
        """Accept until cancelled, and close the listeners; the connections live on in ``connections``."""
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(self._accept, listener, connections)

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        # trio.serve_listeners would take connections one by one, at a third of the speed; its manners are kept.
        is_exhausted_told = False
        async with listener:
            while True:
                await listener.wait()
                await self._places.wait()
                try:
                    clients = listener.take(min(self._places.free, _BATCH))
                except OSError as error:
                    if not is_exhausted(error):
                        raise
                    if not is_exhausted_told:
                        self._exhausted(error)
                    is_exhausted_told = True
                    await trio.sleep(_EXHAUSTED_PAUSE)
                    continue
                is_exhausted_told = False
                self._places.free -= len(clients)
                now = trio.current_time()
                for client in clients:
                    connections.start_soon(self._connection, client, now)

    async def _connection(self, client: SocketStream, accepted: float) -> None:
        record = Record(self.name, client.peer, self._dialer.upstream, accepted)
        transfer = record.transfer
        try:
            await client.do_handshake()
            record.peer = client.peer
            with self._hold:
                upstream = await self._dialer.dial()  # in this task: a hanging dial keeps nobody else waiting
                record.dial_seconds = trio.current_time() - record.accepted
                await self._splicer.splice(client, upstream, self._limits, transfer)
        except HandshakeError as error:
            transfer.reason, transfer.detail = Reason.ERROR_ON_CLIENT, str(error)
        except DialError as error:
            transfer.reason, transfer.detail = Reason.DIAL_FAILED, str(error)
        except trio.Cancelled:
            transfer.reason = Reason.SHUTDOWN
            raise
        except Exception as error:  # one connection's bug must not end the others
            transfer.reason, transfer.detail = Reason.INTERNAL_ERROR, repr(error)
            record.bug = error
        finally:
            client.abort()  # does nothing after the splice, which has closed it already
            self._places.leave()
            record.seconds = trio.current_time() - record.accepted
            self._account(record)
