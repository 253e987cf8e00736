"""The native AF_HYPERV transport, over a fake socket that keeps CPython's rules."""

import math
import socket
import uuid

import pytest
import trio

from hvbridge.address.endpoint import HypervEndpoint
from hvbridge.hyperv import guid
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.hyperv.windows import AF_HYPERV, HV_PROTOCOL_RAW, HypervTransport
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import Network
from hvbridge.transport.options import DialOptions, ListenOptions
from tests.transport.hyperv.fake_hyperv import FakeHyperv, winsock_error

VM = uuid.UUID("6A0C8E2E-1111-4222-8333-444455556666")
SSH = guid.service_id_of_port(22)
TARGET = HypervEndpoint(VM, SSH)
CONNECT_TIMEOUT, CONNECTED_SUSPEND = (HV_PROTOCOL_RAW, 1), (HV_PROTOCOL_RAW, 4)


@pytest.fixture
async def kernel() -> FakeHyperv:
    kernel = FakeHyperv()
    trio.socket.set_custom_socket_factory(kernel)
    return kernel


async def listen(endpoint: HypervEndpoint = TARGET, **options: object) -> Listener:
    (listener,) = await HypervTransport().listen(endpoint, ListenOptions(**options))  # type: ignore[arg-type]
    return listener


async def test_carries_bytes_both_ways_and_half_closes(kernel: FakeHyperv) -> None:
    """A dialled and an accepted stream exchange bytes, and each hears the other's end."""
    listener = await listen()
    client = await HypervTransport().dial(TARGET, DialOptions())
    server = await listener.accept()
    await client.send_all(b"ping")
    await client.send_eof()
    assert await server.receive_some() == b"ping"
    assert await server.receive_some() == b""
    await server.send_all(b"pong")
    await server.send_eof()
    assert await client.receive_some() == b"pong"
    assert await client.receive_some() == b""


async def test_names_the_vm_of_an_accepted_connection(kernel: FakeHyperv) -> None:
    """The peer is told by its VM, not by the arbitrary service id of an accepted socket."""
    listener = await listen()
    await HypervTransport().dial(TARGET, DialOptions())
    server = await listener.accept()
    assert server.peer == f"hyperv://{uuid.UUID(int=7)}"


@pytest.mark.parametrize(
    ("timeout", "milliseconds"), [(10.0, 10_000), (0.0005, 1), (1000.0, 300_000), (math.inf, 300_000)]
)
async def test_gives_the_kernel_the_time_of_the_dial(
    kernel: FakeHyperv, timeout: float, milliseconds: int
) -> None:
    """HVSOCKET_CONNECT_TIMEOUT is the dial timeout in ms, at least 1 and at most Windows' maximum."""
    await listen()
    await HypervTransport().dial(TARGET, DialOptions(timeout=timeout))
    assert kernel.sockets[1].options[CONNECT_TIMEOUT] == milliseconds


async def test_asks_for_connected_suspend_only_when_told(kernel: FakeHyperv) -> None:
    """HVSOCKET_CONNECTED_SUSPEND is set on dialled sockets and on listeners, and only on request."""
    await listen(connected_suspend=True)
    await HypervTransport().dial(TARGET, DialOptions(connected_suspend=True))
    await HypervTransport().dial(TARGET, DialOptions())
    assert [sock.options.get(CONNECTED_SUSPEND) for sock in kernel.sockets] == [1, 1, None]


async def test_sets_buffers_before_it_listens(kernel: FakeHyperv) -> None:
    """The listener's buffers are set, since rings are sized by them."""
    listener = await listen(buffer=65536)
    sock = kernel.listeners[str(VM), str(SSH)]
    assert sock.options[socket.SOL_SOCKET, socket.SO_RCVBUF] == 65536
    assert sock.options[socket.SOL_SOCKET, socket.SO_SNDBUF] == 65536
    await listener.aclose()
    assert not kernel.listeners


@pytest.mark.parametrize("vm", [guid.ANY, guid.CHILDREN, guid.PARENT, guid.LOOPBACK])
async def test_binds_wildcards_by_their_guid(kernel: FakeHyperv, vm: uuid.UUID) -> None:
    """A wildcard is bound as the VmId that Windows knows."""
    await listen(HypervEndpoint(vm, SSH))
    assert (str(vm), str(SSH)) in kernel.listeners


CODES = [
    (10049, Cause.NOT_RUNNING),
    (10050, Cause.NOT_RUNNING),
    (10051, Cause.NOT_RUNNING),
    (10060, Cause.NOBODY_LISTENING),
    (10061, Cause.REFUSED),
    (10013, Cause.NOT_PERMITTED),
    (10055, Cause.OUT_OF_MEMORY),
    (10099, Cause.UNKNOWN),
]


@pytest.mark.parametrize("from_so_error", [True, False])
@pytest.mark.parametrize(("code", "cause"), CODES)
async def test_classifies_a_failed_connect(
    kernel: FakeHyperv, code: int, cause: Cause, from_so_error: bool
) -> None:
    """Each code is classified alike with and without a winerror, and closes the socket."""

    def fail(_: object) -> None:
        raise winsock_error(code, from_so_error=from_so_error)

    kernel.on_connect = fail
    with pytest.raises(DialError) as caught:
        await HypervTransport().dial(TARGET, DialOptions())
    assert caught.value.cause is cause
    assert str(caught.value).startswith(f"cannot dial hyperv://{VM}/ssh: {cause} (WinError {code})")
    assert caught.value.advice
    assert kernel.sockets[-1].closed


async def test_every_cause_of_a_dial_has_advice() -> None:
    """No message of the native transport leaves its user without a next step."""
    for _, cause in CODES:
        assert DialError(TARGET, cause).advice


async def test_says_what_a_second_listener_does_wrong(kernel: FakeHyperv) -> None:
    """An address in use is a listen error with its cause."""
    await listen()
    with pytest.raises(ListenError) as caught:
        await listen()
    assert caught.value.cause is Cause.IN_USE


async def test_silence_ends_with_the_dial_timeout(kernel: FakeHyperv, autojump_clock: object) -> None:
    """A connect that never answers ends at its deadline as nobody listening, and its socket is closed."""
    kernel.on_connect = lambda _: trio.Event().wait()
    with pytest.raises(DialError) as caught:
        await Network(HypervTransport()).dial(TARGET, DialOptions(timeout=5))
    assert trio.current_time() == pytest.approx(5, abs=0.01)
    assert caught.value.cause is Cause.NOBODY_LISTENING
    assert kernel.sockets[-1].closed


class BlockingSocket:
    """A stdlib socket as a thread sees it."""

    def __init__(self, *, fails_with: OSError | None = None) -> None:
        self.address: object = None
        self.options: dict[tuple[int, int], int] = {}
        self.closed = False
        self._fails_with = fails_with

    def __call__(self, family: int, kind: int, proto: int) -> "BlockingSocket":
        assert (family, kind, proto) == (AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[level, option] = value

    def connect(self, address: object) -> None:
        self.address = address
        if self._fails_with is not None:
            raise self._fails_with

    def close(self) -> None:
        self.closed = True


def threaded(kernel: FakeHyperv, blocking: BlockingSocket) -> HypervTransport:
    """A transport whose blocking connects reach ``blocking``, taken over by a fake of the kernel."""
    return HypervTransport(
        blocking_socket=blocking,  # type: ignore[arg-type]
        adopt=lambda _: kernel.socket(AF_HYPERV, socket.SOCK_STREAM, HV_PROTOCOL_RAW),
    )


async def test_thread_mode_connects_with_a_blocking_socket(kernel: FakeHyperv) -> None:
    """connect_mode thread makes a blocking connect that the kernel's own timeout bounds."""
    blocking = BlockingSocket()
    await threaded(kernel, blocking).dial(TARGET, DialOptions(connect_mode="thread", timeout=3))
    assert blocking.address == (str(VM), str(SSH))
    assert blocking.options[CONNECT_TIMEOUT] == 3000


async def test_thread_mode_classifies_and_closes(kernel: FakeHyperv) -> None:
    """A failed connect in a thread is classified like any other, and its socket is closed."""
    blocking = BlockingSocket(fails_with=winsock_error(10013))
    with pytest.raises(DialError) as caught:
        await threaded(kernel, blocking).dial(TARGET, DialOptions(connect_mode="thread"))
    assert caught.value.cause is Cause.NOT_PERMITTED
    assert blocking.closed


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Unexpected failure finding base socket"),
        winsock_error(10022),
        winsock_error(10045),
    ],
)
async def test_auto_falls_back_on_threads_when_waiting_fails(kernel: FakeHyperv, failure: Exception) -> None:
    """Where such sockets cannot be waited for, auto connects in a thread, and remembers it."""

    def fail(_: object) -> None:
        raise failure

    kernel.on_connect = fail
    blocking = BlockingSocket()
    transport = threaded(kernel, blocking)
    await transport.dial(TARGET, DialOptions(connect_mode="auto"))
    tried = len(kernel.sockets)
    await transport.dial(TARGET, DialOptions(connect_mode="auto"))
    assert len(kernel.sockets) == tried + 1  # the adopted socket alone: no second non-blocking try


@pytest.mark.parametrize("code", [10049, 10060, 10061, 10013, 10022, 10045])
async def test_auto_takes_an_ordinary_connect_error_as_it_is(kernel: FakeHyperv, code: int) -> None:
    """An error that SO_ERROR reports is the connect's own, and no thread tries again."""

    def fail(_: object) -> None:
        raise winsock_error(code, from_so_error=True)

    kernel.on_connect = fail
    blocking = BlockingSocket()
    with pytest.raises(DialError):
        await threaded(kernel, blocking).dial(TARGET, DialOptions(connect_mode="auto"))
    assert blocking.address is None


@pytest.mark.parametrize("failure", [winsock_error(10045), RuntimeError("no base socket")])
async def test_nonblocking_mode_never_uses_a_thread(kernel: FakeHyperv, failure: Exception) -> None:
    """connect_mode nonblocking fails where it cannot wait, and says which mode could."""

    def fail(_: object) -> None:
        raise failure

    kernel.on_connect = fail
    blocking = BlockingSocket()
    with pytest.raises(DialError, match='set connect_mode = "thread"'):
        await threaded(kernel, blocking).dial(TARGET, DialOptions(connect_mode="nonblocking"))
    assert blocking.address is None


async def test_an_abandoned_thread_closes_its_socket(kernel: FakeHyperv) -> None:
    """When a dial is cancelled while its thread connects, the thread closes what it gets."""
    import threading

    entered, may_finish, finished = threading.Event(), threading.Event(), threading.Event()

    class SlowSocket(BlockingSocket):
        def connect(self, address: object) -> None:
            entered.set()
            may_finish.wait(10)

        def close(self) -> None:
            super().close()
            finished.set()

    blocking = SlowSocket()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threaded(kernel, blocking).dial, TARGET, DialOptions(connect_mode="thread"))
        await trio.to_thread.run_sync(entered.wait, 10)
        nursery.cancel_scope.cancel()
    may_finish.set()
    assert await trio.to_thread.run_sync(finished.wait, 10)
    assert blocking.closed
