"""hvbridge's own Hyper-V transport on Windows CPython, over AF_HYPERV sockets, in each way to connect."""

import hashlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

import pytest
import trio

from hvbridge.address.endpoint import HypervEndpoint, parse_endpoint
from hvbridge.hyperv.guid import ANY, PARENT, service_id_of_port
from hvbridge.hyperv.services import Service
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.hyperv.windows import HypervTransport
from hvbridge.transport.listener import Listener, SocketListener
from hvbridge.transport.network import Network, native_network
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

from .partitions import GUEST, HOST, OTHER, Partitions, needs_partitions

pytestmark = needs_partitions

SERVICE = 5000
SERVICE_ID = service_id_of_port(SERVICE)
MB = 1_000_000


@pytest.fixture(params=["nonblocking", "thread", "auto"])
def options(request: pytest.FixtureRequest) -> DialOptions:
    """Return the options of a dial, once for each way to connect."""
    return DialOptions(timeout=10, connect_mode=request.param)


@pytest.fixture
def network() -> Network:
    """Return what hvbridge itself would use here."""
    return native_network()


async def echo(stream: SocketStream) -> None:
    """Send back what comes, then end."""
    async with stream:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()


async def listen(
    network: Network, vm: object, options: ListenOptions | None = None, service: object = SERVICE
) -> Listener:
    """Listen for ``vm``, by default on the service of these tests."""
    [listener] = await network.listen(parse_endpoint(f"hyperv://{vm}/{service}"), options or ListenOptions())
    return listener


@asynccontextmanager
async def serving(
    network: Network, vm: object, handler: Callable[[SocketStream], Awaitable[None]] = echo
) -> AsyncIterator[None]:
    """Serve connections on the service of these tests."""
    listener = await listen(network, vm)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handler, [listener])
            yield
            nursery.cancel_scope.cancel()


async def dial(network: Network, vm: object, options: DialOptions, service: object = SERVICE) -> SocketStream:
    """Connect, by default to the service of these tests."""
    return await network.dial(parse_endpoint(f"hyperv://{vm}/{service}"), options)


@asynccontextmanager
async def pair(network: Network, options: DialOptions) -> AsyncIterator[tuple[SocketStream, SocketStream]]:
    """Connect two streams through loopback: what was dialled, and what was accepted."""
    listener = await listen(network, "loopback")
    async with listener:
        dialled = await dial(network, "loopback", options)
        accepted = await listener.accept()
    with trio.fail_after(120):
        async with dialled, accepted:
            yield dialled, accepted


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end of data."""
    return b"".join([data async for data in stream])


async def exchange(stream: SocketStream, data: bytes) -> bytes:
    """Send ``data`` and its end; return all that comes back."""
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send_whole, stream, data)
        return await read_all(stream)


async def send_whole(stream: SocketStream, data: bytes) -> None:
    """Send ``data`` and its end."""
    await stream.send_all(data)
    await stream.send_eof()


@pytest.mark.parametrize(
    ("listens_in", "listens_for", "dials_from", "dials", "peer"),
    [
        (HOST, "any", HOST, "loopback", "hyperv://loopback"),
        (HOST, "loopback", HOST, "loopback", "hyperv://loopback"),
        (HOST, "any", GUEST, "parent", f"hyperv://{GUEST}"),
        (HOST, "children", GUEST, "parent", f"hyperv://{GUEST}"),
        (HOST, GUEST, GUEST, "parent", f"hyperv://{GUEST}"),
        (GUEST, "any", HOST, GUEST, "hyperv://parent"),
        (GUEST, "parent", HOST, GUEST, "hyperv://parent"),
        (GUEST, "any", GUEST, "loopback", "hyperv://loopback"),
        (GUEST, "loopback", GUEST, GUEST, "hyperv://loopback"),
    ],
)
async def test_reaches_a_listener(
    partitions: Partitions,
    network: Network,
    options: DialOptions,
    listens_in: UUID | None,
    listens_for: object,
    dials_from: UUID | None,
    dials: object,
    peer: str,
) -> None:
    """A dial reaches the listener whose VM id admits it, which learns from where it came."""
    peers: list[str] = []

    async def note_peer(stream: SocketStream) -> None:
        peers.append(stream.peer)
        await echo(stream)

    partitions.run(GUEST)
    partitions.enter(listens_in)
    async with serving(network, listens_for, note_peer):
        partitions.enter(dials_from)
        assert await exchange(await dial(network, dials, options), b"hello") == b"hello"
    assert peers == [peer]


@pytest.mark.parametrize(
    ("listens_in", "listens_for", "dials_from", "dials", "cause"),
    [
        (HOST, "children", HOST, "loopback", Cause.REFUSED),
        (HOST, "loopback", GUEST, "parent", Cause.REFUSED),
        (HOST, OTHER, GUEST, "parent", Cause.REFUSED),
        (HOST, "any", HOST, GUEST, Cause.REFUSED),
        (GUEST, "loopback", HOST, GUEST, Cause.REFUSED),
        (OTHER, "any", GUEST, OTHER, Cause.NOT_RUNNING),
        (HOST, "any", HOST, "parent", Cause.NOT_RUNNING),
    ],
)
async def test_reaches_no_listener_of_other_partitions(
    partitions: Partitions,
    network: Network,
    options: DialOptions,
    listens_in: UUID | None,
    listens_for: object,
    dials_from: UUID | None,
    dials: object,
    cause: Cause,
) -> None:
    """A dial does not reach a listener whose VM id does not admit it."""
    partitions.run(GUEST)
    partitions.enter(listens_in)
    async with serving(network, listens_for):
        partitions.enter(dials_from)
        with pytest.raises(DialError) as caught:
            await dial(network, dials, options)
    assert caught.value.cause is cause


async def test_wsl_reaches_only_its_own_id(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """A VM that matches no wildcard, as WSL2's, still reaches a listener bound to its id."""
    partitions.run(GUEST, exact=True)
    async with serving(network, "children"):
        partitions.enter(GUEST)
        with pytest.raises(DialError, match="10061"):
            await dial(network, "parent", options)
        partitions.enter(HOST)
        async with serving(network, GUEST):
            partitions.enter(GUEST)
            assert await exchange(await dial(network, "parent", options), b"hello") == b"hello"


@pytest.mark.parametrize(
    ("state", "cause", "number"),
    [
        ("off", Cause.NOT_RUNNING, 10049),
        ("idle", Cause.REFUSED, 10061),
        ("silent", Cause.NOBODY_LISTENING, 10060),
    ],
)
async def test_dial_failure(
    partitions: Partitions, network: Network, options: DialOptions, state: str, cause: Cause, number: int
) -> None:
    """A VM that is off, one that refuses and one that stays silent are told apart."""
    if state != "off":
        partitions.run(GUEST, silent=state == "silent")
    options = DialOptions(timeout=0.5, connect_mode=options.connect_mode)
    with pytest.raises(DialError) as caught:
        await dial(network, GUEST, options)
    assert caught.value.cause is cause
    if caught.value.error is not None:  # our own deadline may have come before the kernel's
        assert str(number) in str(caught.value)


async def test_dial_timeout_is_the_kernels(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """The kernel is told how long to wait, so that even a connect that nobody can cancel ends in time."""
    partitions.run(GUEST, silent=True)
    start = trio.current_time()
    options = DialOptions(timeout=0.3, connect_mode=options.connect_mode)
    endpoint = parse_endpoint(f"hyperv://{GUEST}/{SERVICE}")
    assert isinstance(endpoint, HypervEndpoint)
    with pytest.raises(DialError, match="10060"):
        await HypervTransport().dial(endpoint, options)
    assert 0.25 < trio.current_time() - start < 1.5  # Windows's own default is 2 s


async def test_cancelled_dial_returns_at_once(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """A dial that is given up does not wait for the kernel, even from a thread."""
    partitions.run(GUEST, silent=True)
    options = DialOptions(timeout=2, connect_mode=options.connect_mode)
    start = trio.current_time()
    with trio.move_on_after(0.1):
        await dial(network, GUEST, options)
    assert trio.current_time() - start < 1


async def test_unregistered_service(partitions: Partitions, network: Network, options: DialOptions) -> None:
    """The host may neither dial nor listen on a service that its registry lacks, and may once it is there."""
    from hvbridge.hyperv.services.windows import WindowsRegistry

    partitions.require_registration()
    service = uuid4()
    with pytest.raises(ListenError) as refused_listen:
        await listen(network, "loopback", service=service)
    with pytest.raises(DialError) as refused_dial:
        await dial(network, "loopback", options, service)
    assert [refused_listen.value.cause, refused_dial.value.cause] == [Cause.NOT_PERMITTED] * 2

    WindowsRegistry().register(Service(service, "of a test"))
    async with await listen(network, "loopback", service=service) as listener:
        dialled = await dial(network, "loopback", options, service)
        async with dialled, await listener.accept() as accepted:
            await dialled.send_all(b"hello")
            assert await accepted.receive_some() == b"hello"


async def test_listen_failure(partitions: Partitions, network: Network) -> None:
    """An address that is taken, and a parent where there is none, are told apart."""
    async with await listen(network, "any"):
        with pytest.raises(ListenError) as in_use:
            await listen(network, "any")
        async with await listen(network, "children"):  # another scope is another address
            pass
    with pytest.raises(ListenError) as not_here:
        await listen(network, "parent")
    assert [in_use.value.cause, not_here.value.cause] == [Cause.IN_USE, Cause.ADDRESS_NOT_LOCAL]
    async with await listen(network, "any"):  # a closed listener leaves its address
        pass


async def test_windows_without_hyperv(partitions: Partitions, network: Network, options: DialOptions) -> None:
    """Where Windows has no Hyper-V sockets, the error says so."""
    partitions.abolish_hyperv()
    with pytest.raises(ListenError) as listening:
        await listen(network, "any")
    with pytest.raises(DialError) as dialling:
        await dial(network, "loopback", options)
    assert [listening.value.cause, dialling.value.cause] == [Cause.UNAVAILABLE] * 2


async def test_auto_falls_back_to_threads(partitions: Partitions, network: Network) -> None:
    """Where a connect cannot be waited for, auto connects in a thread, then and from then on."""
    partitions.forbid_waiting_for_connects()
    async with serving(network, "loopback"):
        for _ in range(2):
            stream = await dial(network, "loopback", DialOptions(connect_mode="auto"))
            assert await exchange(stream, b"hello") == b"hello"


async def test_nonblocking_says_that_it_cannot(partitions: Partitions, network: Network) -> None:
    """Where a connect cannot be waited for, asking for that alone is a dial error, not a crash."""
    partitions.forbid_waiting_for_connects()
    async with serving(network, "loopback"):
        with pytest.raises(DialError):
            await dial(network, "loopback", DialOptions(connect_mode="nonblocking"))


async def test_half_close_from_either_side(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """After one side's end of data, the other's flows on until its own."""
    async with pair(network, options) as streams:
        for first, second in (streams, streams[::-1]):
            await first.send_all(b"request")
            assert await second.receive_some() == b"request"
        first, second = streams
        await first.send_eof()
        assert await second.receive_some() == b""
        for _ in range(3):
            await second.send_all(b"reply")
            assert await first.receive_some() == b"reply"
        await second.send_eof()
        assert await first.receive_some() == b""


@pytest.mark.parametrize("side", ["dialler", "listener"])
async def test_abort_is_a_reset(
    partitions: Partitions, network: Network, options: DialOptions, side: str
) -> None:
    """What one side cuts, the other sees as a failure, never as an end of data."""
    async with pair(network, options) as streams:
        cut, seen = streams if side == "dialler" else streams[::-1]
        await cut.send_all(b"half of it")
        assert await seen.receive_some() == b"half of it"
        cut.abort()
        with pytest.raises(trio.BrokenResourceError):
            await seen.receive_some()


async def test_200_connections_at_once(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """200 connections at once each get their own bytes back, all of them."""
    payloads = [struct.pack("<I", number) * (1 + number) for number in range(200)]
    answers: list[bytes] = [b""] * len(payloads)

    async def one(number: int) -> None:
        answers[number] = await exchange(await dial(network, "loopback", options), payloads[number])

    async with serving(network, "loopback"), trio.open_nursery() as nursery:
        for number in range(len(payloads)):
            nursery.start_soon(one, number)
    assert answers == payloads


async def test_100_mb_each_way(partitions: Partitions, network: Network, options: DialOptions) -> None:
    """100 MB flow each way at once, unchanged."""
    block = os.urandom(MB)
    sent = hashlib.sha256(block * 100).digest()
    received: list[bytes] = []

    async def send(stream: SocketStream) -> None:
        for _ in range(100):
            await stream.send_all(block)
        await stream.send_eof()

    async def receive(stream: SocketStream) -> None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(131072))
        while size := await stream.receive_into(buffer):
            digest.update(buffer[:size])
        received.append(digest.digest())

    async with pair(network, options) as streams, trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream)
    assert received == [sent, sent]


async def test_socket_options_reach_the_kernel(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """HVSOCKET_CONNECTED_SUSPEND and the buffers are set where the config asks for them."""
    if sys.platform != "win32":
        raise NotImplementedError
    buffer = 65536
    suspend = DialOptions(connect_mode=options.connect_mode, connected_suspend=True)
    listener = await listen(network, "loopback", ListenOptions(connected_suspend=True, buffer=buffer))
    async with (
        listener,
        await dial(network, "loopback", suspend) as dialled,
        await listener.accept() as accepted,
    ):
        for stream in (dialled, accepted):
            assert stream.socket.getsockopt(socket.HV_PROTOCOL_RAW, socket.HVSOCKET_CONNECTED_SUSPEND) == 1
        assert isinstance(listener, SocketListener)
        assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= buffer


@pytest.mark.parametrize("scope", [PARENT, ANY], ids=["parent", "any"])
async def test_host_to_a_program_in_a_guest(
    partitions: Partitions, network: Network, options: DialOptions, scope: UUID
) -> None:
    """The host reaches a listener of another process, in a guest, until that process is killed."""
    async with partitions.program(GUEST, "echo", scope, SERVICE_ID):
        data = os.urandom(MB)
        assert await exchange(await dial(network, GUEST, options), data) == data
        held = await dial(network, GUEST, options)
        await held.send_all(b"hello")
        assert await held.receive_some() == b"hello"
    with trio.fail_after(10), suppress(trio.BrokenResourceError):  # a reset is as good an end as any
        assert await held.receive_some() == b""
    await held.aclose()
    with pytest.raises(DialError) as caught:
        await dial(network, GUEST, options)
    assert caught.value.cause is Cause.REFUSED


@pytest.mark.parametrize("scope", ["any", "children", str(GUEST)])
async def test_program_in_a_guest_to_the_host(
    partitions: Partitions, network: Network, scope: object
) -> None:
    """A listener on the host serves another process, in a guest."""
    partitions.run(GUEST)
    async with serving(network, scope), partitions.program(GUEST, "dial", PARENT, SERVICE_ID) as process:
        assert process.stdout is not None
        assert await read_all(process.stdout) == b"hello\n"


async def test_other_guests_are_refused(partitions: Partitions, network: Network) -> None:
    """A listener for one VM does not serve a program in another."""
    partitions.run(OTHER)
    async with serving(network, GUEST), partitions.program(OTHER, "dial", PARENT, SERVICE_ID) as process:
        assert process.stdout is not None
        assert await read_all(process.stdout) == b""
        assert await process.wait() != 0


async def test_many_connections_leave_nothing_behind(
    partitions: Partitions, network: Network, options: DialOptions
) -> None:
    """Hundreds of connections, one after the other, leave no handle open."""
    async with serving(network, "loopback"):

        async def highest_handle_after(count: int) -> int:
            for _ in range(count):
                assert await exchange(await dial(network, "loopback", options), b"x") == b"x"
            with socket.socket() as lowest_free:
                return lowest_free.fileno()

        before = await highest_handle_after(50)
        assert await highest_handle_after(300) <= before + 40


async def test_reset_before_accept(partitions: Partitions, network: Network, options: DialOptions) -> None:
    """A connection that was cut before it was accepted does not end the listener."""
    listener = await listen(network, "loopback")
    async with listener:
        (await dial(network, "loopback", options)).abort()
        async with await dial(network, "loopback", options) as dialled:
            await dialled.send_all(b"hello")
            with trio.fail_after(10):
                while True:
                    async with await listener.accept() as accepted:
                        with suppress(trio.BrokenResourceError):
                            if await accepted.receive_some() == b"hello":
                                break
