"""The way of one connection, with scripted clients, dials and splices, in virtual time."""

import errno
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from hvbridge.address.client_id import ClientId, parse_source
from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.proxy.access_list import AccessList
from hvbridge.proxy.admission import Admission, AdmissionPolicy, SharedLimit
from hvbridge.proxy.client_address import ProxyHeader
from hvbridge.proxy.forward import Forward, Route
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.upstream import Dialer
from hvbridge.splice import Limits, Reason, Transfer
from hvbridge.transport.errors import Cause, DialError
from hvbridge.transport.stream import HandshakeError

UPSTREAM = TcpEndpoint("192.0.2.1", 22)


class Client:
    """An accepted stream, as far as a forward handles it."""

    def __init__(
        self, peer: str = "client", handshake: Exception | None = None, client_id: ClientId = None
    ) -> None:
        self.peer = peer
        self.client_id = client_id
        self.aborted = False
        self._handshake = handshake

    async def do_handshake(self) -> None:
        if self._handshake is not None:
            raise self._handshake

    def abort(self) -> None:
        self.aborted = True

    async def aclose(self) -> None:
        self.aborted = True


class Listener:
    """Has the clients that a test lets connect, and counts how many were taken; fails as the test wants."""

    def __init__(self) -> None:
        self.backlog: list[Client] = []
        self.arrival = trio.Event()
        self.accepted = 0
        self.closed = False
        self.failures: list[Exception] = []

    def connect(self, *clients: Client) -> None:
        self.backlog += clients
        self.arrival.set()

    async def wait_acceptable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.backlog:
            self.arrival = trio.Event()
            await self.arrival.wait()

    def accept_nowait(self, at_most: int) -> list[Client]:
        if self.failures:
            raise self.failures.pop(0)
        taken, self.backlog = self.backlog[:at_most], self.backlog[at_most:]
        self.accepted += len(taken)
        return taken

    async def __aenter__(self) -> "Listener":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


@dataclass
class Splices:
    """A splicer that ends each splice when the test says so."""

    end: trio.Event = field(default_factory=trio.Event)
    limits: list[Limits] = field(default_factory=list)

    async def splice(self, client: Client, upstream: Client, limits: Limits, transfer: Transfer) -> None:
        self.limits.append(limits)
        transfer.client_to_upstream, transfer.upstream_to_client = 3, 5
        await self.end.wait()
        transfer.reason = Reason.EOF


@dataclass
class Stage:
    """A forward at work, with everything around it."""

    forward: Forward
    listener: Listener
    splices: Splices
    records: list[ConnectionRecord]
    paused: list[Exception]
    nursery: trio.Nursery

    async def admit(self, *clients: Client) -> None:
        """Let clients connect, and everything happen that can."""
        self.listener.connect(*clients)
        await trio.testing.wait_all_tasks_blocked()


async def answer() -> Client:
    return Client("upstream")


@pytest.fixture
def stage(nursery: trio.Nursery) -> Callable[..., Stage]:
    def make(
        dial: Callable[[], Awaitable[Client]] = answer,
        max_connections: int = 100,
        limits: Limits | None = None,
        *,
        rate: float = math.inf,
        refuse: bool = False,
        access_list: AccessList | None = None,
        proxy_header: ProxyHeader | None = None,
        splices: Splices | None = None,
    ) -> Stage:
        records: list[ConnectionRecord] = []
        paused: list[Exception] = []
        splices, listener = splices or Splices(), Listener()
        forward = Forward(
            "ssh",
            Route(
                Dialer(UPSTREAM, dial, dial_timeout=10.0, max_pending=100),  # type: ignore[arg-type]
                limits or Limits(),
                access_list=access_list,
                proxy_header=proxy_header,
            ),
            Admission(AdmissionPolicy(max_connections, rate, refuse=refuse), SharedLimit(1000)),
            splices,  # type: ignore[arg-type]
            on_close=records.append,
            on_accept_paused=paused.append,
        )
        nursery.start_soon(forward.serve, [listener], nursery)  # type: ignore[arg-type]
        return Stage(forward, listener, splices, records, paused, nursery)

    return make


async def test_a_connection_leaves_exactly_one_whole_record(stage: Callable[..., Stage]) -> None:
    """The closing record names forward, peer and upstream, and carries counts, times and the reason."""
    at_work = stage()
    await at_work.admit(Client("198.51.100.7:5000"))
    assert at_work.records == []
    at_work.splices.end.set()
    await trio.testing.wait_all_tasks_blocked()
    (record,) = at_work.records
    assert (record.forward, record.peer, record.upstream) == ("ssh", "198.51.100.7:5000", UPSTREAM)
    assert (record.transfer.client_to_upstream, record.transfer.upstream_to_client) == (3, 5)
    assert record.transfer.reason is Reason.EOF
    assert record.dial_seconds is not None
    assert record.seconds >= record.dial_seconds


async def test_the_limits_reach_the_splice(stage: Callable[..., Stage]) -> None:
    """Each splice is given the forward's limits."""
    limits = Limits(idle_timeout=1, half_close_timeout=2, max_lifetime=3)
    at_work = stage(limits=limits)
    await at_work.admit(Client())
    assert at_work.splices.limits == [limits]


async def test_a_failed_dial_cuts_the_client_and_is_recorded(stage: Callable[..., Stage]) -> None:
    """The client is reset, not ended cleanly, and the record has the whole message."""

    async def refuse() -> Client:
        raise DialError(UPSTREAM, Cause.REFUSED)

    at_work = stage(dial=refuse)
    client = Client()
    await at_work.admit(client)
    (record,) = at_work.records
    assert client.aborted
    assert record.transfer.reason is Reason.DIAL_FAILED
    assert record.transfer.detail == str(DialError(UPSTREAM, Cause.REFUSED))
    assert record.dial_seconds is None


async def test_a_hanging_dial_harms_no_other_connection(stage: Callable[..., Stage]) -> None:
    """While one dial hangs, later connections are accepted, dialled and spliced."""
    dialled = 0

    async def dial() -> Client:
        nonlocal dialled
        dialled += 1
        if dialled == 1:
            await trio.sleep_forever()
        return Client("upstream")

    at_work = stage(dial=dial)
    await at_work.admit(Client(), Client(), Client())
    assert dialled == 3
    assert len(at_work.splices.limits) == 2


async def test_a_permit_is_taken_before_accept(stage: Callable[..., Stage]) -> None:
    """At max_connections nothing more is accepted, until a connection has closed."""
    at_work = stage(max_connections=2)
    await at_work.admit(Client(), Client(), Client())
    assert at_work.listener.accepted == 2
    at_work.splices.end.set()
    await trio.testing.wait_all_tasks_blocked()
    assert at_work.listener.accepted == 3


async def test_two_listeners_share_the_limit(stage: Callable[..., Stage]) -> None:
    """A listener that waits for clients holds nothing back from another of the same forward."""
    at_work, other = stage(max_connections=1), Listener()
    at_work.nursery.start_soon(at_work.forward.serve, [other], at_work.nursery)  # type: ignore[arg-type]
    await trio.testing.wait_all_tasks_blocked()
    other.connect(Client())
    await at_work.admit(Client())
    assert at_work.listener.accepted + other.accepted == 1
    at_work.splices.end.set()
    await trio.testing.wait_all_tasks_blocked()
    assert at_work.listener.accepted + other.accepted == 2


async def test_exhaustion_pauses_the_listener_and_ends_nothing(
    stage: Callable[..., Stage], autojump_clock: trio.testing.MockClock
) -> None:
    """Out of descriptors, the listener waits and goes on; it is told once."""
    at_work = stage()
    at_work.listener.failures = [OSError(errno.EMFILE, "too many open files") for _ in range(5)]
    await at_work.admit(Client())
    await trio.sleep(1)
    assert at_work.listener.accepted == 1
    assert len(at_work.paused) == 1


async def test_an_accept_that_fails_otherwise_ends_nothing_either(
    stage: Callable[..., Stage], autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever a listener raises, its forward goes on, and so do the others; it is told once."""
    at_work = stage()
    at_work.listener.failures = [OSError(errno.EBADF, "bad"), LookupError("a bug"), RuntimeError("another")]
    await at_work.admit(Client())
    await trio.sleep(1)
    assert at_work.listener.accepted == 1
    assert len(at_work.paused) == 1


async def test_a_connection_that_failed_gives_its_permit_back(stage: Callable[..., Stage]) -> None:
    """Failed dials do not use up max_connections."""

    async def refuse() -> Client:
        raise DialError(UPSTREAM, Cause.REFUSED)

    at_work = stage(dial=refuse, max_connections=1)
    await at_work.admit(*(Client() for _ in range(10)))
    assert len(at_work.records) == 10


async def test_a_failed_handshake_ends_that_connection_only(stage: Callable[..., Stage]) -> None:
    """A client that does not say who it is is cut, recorded, and nobody is dialled for it."""
    at_work = stage()
    stranger = Client(handshake=HandshakeError("it said nothing"))
    await at_work.admit(stranger, Client())
    (record,) = at_work.records
    assert stranger.aborted
    assert (record.transfer.reason, record.transfer.detail) == (Reason.ERROR_ON_CLIENT, "it said nothing")
    assert len(at_work.splices.limits) == 1


async def test_a_bug_ends_its_connection_only(stage: Callable[..., Stage]) -> None:
    """An unexpected exception is recorded as an internal error, and the forward goes on."""
    bug = LookupError("a bug")
    dialled = 0

    async def dial() -> Client:
        nonlocal dialled
        dialled += 1
        if dialled == 1:
            raise bug
        return Client("upstream")

    at_work = stage(dial=dial)
    broken = Client()
    await at_work.admit(broken)
    await at_work.admit(Client())
    (record,) = at_work.records
    assert broken.aborted
    assert (record.transfer.reason, record.bug) == (Reason.INTERNAL_ERROR, bug)
    assert len(at_work.splices.limits) == 1


async def test_cancelling_records_a_shutdown(stage: Callable[..., Stage]) -> None:
    """A connection that the bridge ends is recorded so, with what had passed."""
    at_work = stage()
    async with trio.open_nursery() as connections:
        listener = Listener()
        listener.connect(Client())
        connections.start_soon(at_work.forward.serve, [listener], connections)  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        connections.cancel_scope.cancel()
    (record,) = at_work.records
    assert record.transfer.reason is Reason.SHUTDOWN
    assert record.transfer.client_to_upstream == 3


async def test_above_the_limit_a_connection_is_refused_where_that_is_wanted(
    stage: Callable[..., Stage],
) -> None:
    """A forward that refuses takes what comes, cuts it at once, and says why in its record."""
    at_work = stage(max_connections=1, refuse=True)
    first, second = Client("first"), Client("second")
    await at_work.admit(first, second)
    assert (first.aborted, second.aborted) == (False, True)
    (record,) = at_work.records
    assert (record.peer, record.transfer.reason) == ("second", Reason.REFUSED)
    assert "max_connections" in record.transfer.detail


async def test_a_rate_lets_the_rest_wait(
    stage: Callable[..., Stage], autojump_clock: trio.testing.MockClock
) -> None:
    """Above the rate connections wait in the backlog, and come in as time allows."""
    at_work = stage(rate=2.0)
    await at_work.admit(*(Client() for _ in range(5)))
    assert at_work.listener.accepted == 2
    await trio.sleep(0.6)
    assert at_work.listener.accepted == 3
    await trio.sleep(1)
    assert at_work.listener.accepted == 5


async def test_only_who_is_allowed_is_dialled_for(stage: Callable[..., Stage]) -> None:
    """A client that allow does not name is cut before any dial, by a record that says so."""
    dials = 0

    async def dial() -> Client:
        nonlocal dials
        dials += 1
        return Client("upstream")

    at_work = stage(dial=dial, access_list=AccessList([parse_source("192.0.2.0/24")]))
    allowed, other, unknown = (
        Client(client_id="192.0.2.7"),
        Client(client_id="198.51.100.1"),
        Client(client_id=None),
    )
    await at_work.admit(allowed, other, unknown)
    assert (allowed.aborted, other.aborted, unknown.aborted) == (False, True, True)
    assert [record.transfer.reason for record in at_work.records] == [Reason.REFUSED] * 2
    assert dials == 1


async def test_strangers_do_not_use_up_the_rate(stage: Callable[..., Stage]) -> None:
    """However many clients are turned away by `allow`, as many as the rate allows are served."""
    at_work = stage(rate=2.0, access_list=AccessList([parse_source("192.0.2.0/24")]))
    await at_work.admit(*(Client(client_id="198.51.100.1") for _ in range(20)))
    await at_work.admit(Client(client_id="192.0.2.7"), Client(client_id="192.0.2.8"))
    assert len(at_work.records) == 20
    assert len(at_work.splices.limits) == 2


async def test_an_upstream_that_breaks_off_while_it_is_told_ends_the_connection(
    stage: Callable[..., Stage],
) -> None:
    """When the upstream leaves before it has heard who the client is, the record says who did it."""

    class Deaf(ProxyHeader):
        """Cannot tell anything."""

        async def send(self, client: object, received: object, upstream: object) -> None:
            raise trio.BrokenResourceError("gone")

    at_work = stage(proxy_header=Deaf())
    client = Client()
    await at_work.admit(client)
    assert client.aborted
    assert at_work.records[0].transfer.reason is Reason.RESET_BY_UPSTREAM


async def test_a_connection_closed_while_it_is_dialled_ends_after_the_dial(
    stage: Callable[..., Stage],
) -> None:
    """Closing a connection that is not spliced yet takes effect when its dial has ended."""
    answered, upstream = trio.Event(), Client("upstream")

    async def dial() -> Client:
        await answered.wait()
        return upstream

    at_work = stage(dial=dial)
    await at_work.admit(Client())
    (number,) = at_work.forward.open
    assert at_work.forward.close(number)
    answered.set()
    await trio.testing.wait_all_tasks_blocked()
    assert upstream.aborted
    assert at_work.records[0].transfer.reason is Reason.CLOSED_BY_ADMIN
    assert not at_work.forward.open
    assert not at_work.forward.close(number)


async def test_a_new_route_is_for_new_connections(stage: Callable[..., Stage]) -> None:
    """Replacing the route leaves what is open alone."""
    at_work = stage(max_connections=3)
    await at_work.admit(Client())
    at_work.forward.route = replace(at_work.forward.route, limits=Limits(idle_timeout=7))
    await at_work.admit(Client())
    assert [limits.idle_timeout for limits in at_work.splices.limits] == [math.inf, 7]


async def test_connections_accepted_together_are_dialled_in_order(stage: Callable[..., Stage]) -> None:
    """Programs with several connections tell them apart by their order, which trio's tasks would not keep."""
    spliced: list[str] = []

    class InOrder(Splices):
        async def splice(self, client: Client, upstream: Client, limits: Limits, transfer: Transfer) -> None:
            spliced.append(client.peer)
            await super().splice(client, upstream, limits, transfer)

    async def connect() -> Client:
        return Client("upstream")  # without a wait, as a dial begins

    at_work = stage(dial=connect, splices=InOrder())
    order = [f"client {number}" for number in range(60)]
    for start in range(0, 60, 6):  # trio runs the tasks of a moment in either order, as chance has it
        await at_work.admit(*(Client(peer) for peer in order[start : start + 6]))
    assert spliced == order


async def test_a_client_that_must_be_waited_for_delays_nobody(stage: Callable[..., Stage]) -> None:
    """A client that is slow to say who it is gives its turn to those behind it."""

    class Silent(Client):
        async def do_handshake(self) -> None:
            await trio.sleep_forever()

    at_work = stage()
    await at_work.admit(Silent(), Client(), Client())
    assert len(at_work.splices.limits) == 2
