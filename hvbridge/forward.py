"""The way of one connection: accept → admit → dial → splice → account.

Owns: that order, a forward's limits, and exactly one closing record for each connection. Refuses: the
config, how bytes move (`splice`), how an upstream is reached (`dialer`), and where records go.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import trio

from hvbridge.dialer import Dialer, acquire
from hvbridge.endpoint import Endpoint
from hvbridge.splice import Limits, Reason, Splicer, Transfer
from hvbridge.stream import SocketStream
from hvbridge.transport.errors import DialError
from hvbridge.transport.sockets import HandshakeError, Listener

_ids = itertools.count(1)


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
    id: int = field(default_factory=lambda: next(_ids))
    """Counts the connections of this process, from 1."""


class Forward:
    """Serves listeners by splicing each connection with a dialled upstream.

    ``account`` is called once for each connection, after it has closed, and must not raise. ``hold`` is entered
    for as long as a connection needs its upstream.
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
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.name = name
        self._dialer = dialer
        self._splicer = splicer
        self._limits = limits
        self._permits = trio.Semaphore(max_connections)
        self._account = account
        self._hold = hold

    async def serve(self, listeners: Sequence[Listener], connections: trio.Nursery) -> None:
        """Accept until cancelled, and close the listeners; the connections live on in ``connections``."""
        admitting = [_AdmittingListener(listener, self._permits) for listener in listeners]
        await trio.serve_listeners(self._connection, admitting, handler_nursery=connections)

    async def _connection(self, client: SocketStream) -> None:
        record = Record(self.name, client.peer, self._dialer.upstream, trio.current_time())
        transfer = record.transfer
        try:
            await client.do_handshake()
            record.peer = client.peer
            with self._hold():
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
            self._permits.release()
            record.seconds = trio.current_time() - record.accepted
            self._account(record)


class _AdmittingListener(trio.abc.Listener[SocketStream]):
    """Takes a permit before it accepts: above the limit, connections wait in the kernel's backlog."""

    def __init__(self, listener: Listener, permits: trio.Semaphore) -> None:
        self._listener = listener
        self._permits = permits

    async def accept(self) -> SocketStream:
        await acquire(self._permits)
        try:
            return await self._listener.accept()
        except BaseException:
            self._permits.release()
            raise

    async def aclose(self) -> None:
        await self._listener.aclose()
