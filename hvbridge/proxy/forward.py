"""The way of one connection: accept → admit → dial → splice → account.

Refuses to know the config, which limits there are (`admission`), how bytes move (`splice`), how an upstream is reached
(`upstream`), and where records go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from hvbridge.proxy import proxy_protocol
from hvbridge.proxy.access_list import AccessList
from hvbridge.proxy.admission import Admission
from hvbridge.proxy.client_address import ProxyHeader
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.task_pool import TaskPool
from hvbridge.proxy.upstream import Dialer
from hvbridge.proxy.vm_autostart import Lease, no_lease
from hvbridge.splice import Limits, Reason, Splicer
from hvbridge.transport.errors import DialError
from hvbridge.transport.listener import Listener
from hvbridge.transport.stream import HandshakeError, SocketStream

_BATCH = 64
"""Connections accepted in one go, before other tasks have their turn."""
_PAUSE = 0.1
"""Seconds until a connection may have closed, when descriptors or memory have run out."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a connection meets after it has been accepted."""

    dialer: Dialer
    limits: Limits
    access_list: AccessList | None = None
    """Who may connect; None is everyone who can reach the listener."""
    proxy_header: ProxyHeader | None = None
    """How it is learned, and passed on, who the client is."""
    lease_vm: Callable[[], Lease] = no_lease
    """Makes what keeps the upstream's VM from being saved."""


class Forward:
    """Serves listeners by splicing each connection with a dialled upstream.

    ``route`` may be replaced at any time: connections accepted from then on take the new one. ``on_close`` is called
    once for each connection, after it has closed, and must not raise. ``on_accept_paused`` is called once when
    accepting fails, which is then tried again.
    """

    def __init__(
        self,
        name: str,
        route: Route,
        admission: Admission,
        splicer: Splicer,
        *,
        on_close: Callable[[ConnectionRecord], None],
        on_accept_paused: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.route = route
        self.admission = admission
        self.open: dict[int, ConnectionRecord] = {}
        """The connections that have not closed yet, by their ids; their counters are live."""
        self._splicer = splicer
        self._on_close = on_close
        self._on_accept_paused = on_accept_paused
        self._now = (
            trio.lowlevel.current_clock().current_time
        )  # `trio.current_time` looks for the clock each time

    async def serve(self, listeners: Sequence[Listener], connections: trio.Nursery) -> None:
        """Accept until cancelled; the connections live on in ``connections``, and the caller closes the listeners."""
        with TaskPool(connections) as tasks:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, tasks)

    async def _accept(self, listener: Listener, tasks: TaskPool) -> None:
        # trio.serve_listeners would take connections one by one, at a third of the speed; its manners are kept.
        is_paused = False
        while True:
            try:
                await listener.wait_acceptable()
                await self.admission.wait()
                clients = listener.accept_nowait(self.admission.available(_BATCH))
            except trio.ClosedResourceError:
                raise
            except Exception as error:  # noqa: BLE001 - out of descriptors or memory, or a bug: others go on
                if not is_paused:
                    self._on_accept_paused(error)
                is_paused = True
                await trio.sleep(_PAUSE)
                continue
            is_paused = False
            accepted, route = self._now(), self.route
            for client in clients:
                record = ConnectionRecord(self.name, client.peer, route.dialer.upstream, accepted)
                self.open[record.id] = record
                tasks.start_soon(self._connection, client, record, route, self.admission.try_acquire())

    async def _connection(
        self, client: SocketStream, record: ConnectionRecord, route: Route, exceeded: str
    ) -> None:
        """Serve one connection; ``exceeded`` names the limit that keeps it out, if any."""
        transfer = record.transfer
        try:
            # Nothing waits before the dial unless the client itself makes it wait: so connections that were accepted
            # together are dialled in that order, as programs with several connections rely on.
            header = await self._admit(client, record, route, exceeded)
            with route.lease_vm() as vm:
                upstream = await route.dialer.dial()  # in this task: a hanging dial delays nobody else
                record.dial_seconds = self._now() - record.accepted
                vm.settle(upstream)
                if route.proxy_header is not None:
                    await route.proxy_header.send(client, header, upstream)
                if record.close_requested:
                    upstream.abort()
                    raise _ClosedByAdminError
                await self._splicer.splice(client, upstream, route.limits, transfer)
        except _RefusedError as error:
            transfer.reason, transfer.detail = Reason.REFUSED, str(error)
        except _ClosedByAdminError:
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
        except Exception as error:  # noqa: BLE001 - one connection's bug must not end the others
            transfer.reason, transfer.detail = Reason.INTERNAL_ERROR, repr(error)
            record.bug = error
        finally:
            client.abort()  # does nothing after the splice, which has closed it already
            if not exceeded:
                # A stranger must not use up the rate of those who may connect.
                self.admission.release(uncounted=transfer.reason is Reason.REFUSED)
            del self.open[record.id]
            record.seconds = self._now() - record.accepted
            self._on_close(record)

    async def _admit(
        self, client: SocketStream, record: ConnectionRecord, route: Route, exceeded: str
    ) -> proxy_protocol.Received | None:
        """Learn who the client is, and whether it may connect; return the PROXY header that told."""
        if exceeded:
            raise _RefusedError(exceeded)
        await client.do_handshake()
        header = None if route.proxy_header is None else await route.proxy_header.receive(client)
        record.peer = client.peer
        if route.access_list is not None and not route.access_list.allows(client.client_id):
            raise _RefusedError("client is not in `allow`")
        return header

    def close(self, connection: int) -> bool:
        """Close one connection, or note that it is to be closed once it is dialled; False where it is not open."""
        record = self.open.get(connection)
        if record is None:
            return False
        if record.transfer.end is None:
            record.close_requested = True
        else:
            record.transfer.end(Reason.CLOSED_BY_ADMIN, "")
        return True


class _RefusedError(Exception):
    """The client may not connect."""


class _ClosedByAdminError(Exception):
    """The connection was closed before it was spliced."""
