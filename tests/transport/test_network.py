"""TCP, Unix and the rules of accepting, over real sockets on this machine."""

import errno
import socket
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import TcpEndpoint, UnixEndpoint, parse_endpoint
from hvbridge.transport import network as network_module
from hvbridge.transport import tcp
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.listener import Listener, SocketListener
from hvbridge.transport.network import Network, native_network, network_from_environment
from hvbridge.transport.options import DialOptions, ListenOptions

LOOPBACK = TcpEndpoint("127.0.0.1", 0)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does here is Linux's own")
unix_only = pytest.mark.skipif(sys.platform == "win32", reason="CPython has no AF_UNIX on Windows")

if sys.platform != "win32":
    from hvbridge.transport import unix
else:
    unix: Any = None


def at(listener: Listener) -> TcpEndpoint:
    """The endpoint on which a TCP listener listens."""
    endpoint = parse_endpoint(listener.where)
    assert isinstance(endpoint, TcpEndpoint)
    return endpoint


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")),
    ],
)
async def test_tcp_carries_bytes_by_address_and_by_name(host: str) -> None:
    """A listener and a dial meet on an IPv4 or IPv6 address, or on a name."""
    listeners = await tcp.listen(TcpEndpoint(host, 0), ListenOptions())
    client = await tcp.dial(TcpEndpoint(host, at(listeners[0]).port), DialOptions())
    server = await listeners[0].accept() if len(listeners) == 1 else await _first(listeners)
    assert server.peer == tcp.address_text(client.socket.getsockname())
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"
    await client.aclose()
    await server.aclose()
    for listener in listeners:
        await listener.aclose()


async def _first(listeners: list[Listener]):  # type: ignore[no-untyped-def]
    """What any of the listeners accepts first."""
    accepted = []
    async with trio.open_nursery() as nursery:

        async def accept(listener: Listener) -> None:
            accepted.append(await listener.accept())
            nursery.cancel_scope.cancel()

        for listener in listeners:
            nursery.start_soon(accept, listener)
    return accepted[0]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_tcp_listens_on_every_address_of_a_name() -> None:
    """localhost is bound on IPv4 and IPv6, on one port."""
    listeners = await tcp.listen(TcpEndpoint("localhost", 0), ListenOptions())
    assert len({at(listener).port for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


@linux_only
async def test_tcp_options_reach_dialled_and_accepted_sockets() -> None:
    """Small writes go at once, and a silent peer is probed after tcp_keepalive."""
    (listener,) = await tcp.listen(LOOPBACK, ListenOptions(tcp_keepalive=42, buffer=65536))
    client = await tcp.dial(at(listener), DialOptions(tcp_keepalive=42))
    server = await listener.accept()
    for stream in (client, server):
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 42
        await stream.aclose()
    assert server.socket.fileno() == -1
    await listener.aclose()


@linux_only
async def test_the_buffer_setting_reaches_accepted_sockets() -> None:
    """Linux doubles the buffer it was asked for, and accepted sockets inherit it."""
    (listener,) = await tcp.listen(LOOPBACK, ListenOptions(buffer=40_000))
    client = await tcp.dial(at(listener), DialOptions())
    server = await listener.accept()
    assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 80_000
    assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 80_000
    await client.aclose()
    await server.aclose()
    await listener.aclose()


async def test_a_refused_dial_says_so() -> None:
    """A port on which nobody listens is refused, with advice."""
    (listener,) = await tcp.listen(LOOPBACK, ListenOptions())
    endpoint = at(listener)
    await listener.aclose()
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(DialError) as caught:
            await tcp.dial(TcpEndpoint(host, endpoint.port), DialOptions())
        assert caught.value.cause is Cause.REFUSED
        assert "start the service there" in str(caught.value)


async def test_a_name_that_does_not_exist_says_so() -> None:
    """An unknown host name is its own cause, for dials and for listeners."""
    endpoint = TcpEndpoint("no-such-host.invalid", 22)
    with pytest.raises(DialError) as dialled:
        await tcp.dial(endpoint, DialOptions())
    with pytest.raises(ListenError) as bound:
        await tcp.listen(endpoint, ListenOptions())
    assert dialled.value.cause is bound.value.cause is Cause.NAME_UNKNOWN


async def test_a_foreign_address_cannot_be_bound() -> None:
    """Listening on an address of another machine is named as that."""
    with pytest.raises(ListenError) as caught:
        await tcp.listen(TcpEndpoint("192.0.2.1", 0), ListenOptions())
    assert caught.value.cause is Cause.ADDRESS_NOT_LOCAL


@unix_only
async def test_a_unix_socket_is_its_owners_alone_and_goes_with_its_listener(tmp_path: Path) -> None:
    """The socket file has mode 0600, and is removed when its listener closes."""
    path = tmp_path / "s"
    (listener,) = await unix.listen(UnixEndpoint(str(path)), ListenOptions())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await listener.aclose()
    await listener.aclose()
    assert not path.exists()


@unix_only
async def test_a_dead_unix_socket_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    """The file of a listener that died is taken over; a living one and a plain file are not."""
    path = tmp_path / "s"
    (first,) = await unix.listen(UnixEndpoint(str(path)), ListenOptions())
    with pytest.raises(ListenError) as caught:
        await unix.listen(UnixEndpoint(str(path)), ListenOptions())
    assert caught.value.cause is Cause.IN_USE
    assert isinstance(first, SocketListener)
    first.socket.close()
    (second,) = await unix.listen(UnixEndpoint(str(path)), ListenOptions())
    await second.aclose()
    path.write_text("precious")
    with pytest.raises(ListenError):
        await unix.listen(UnixEndpoint(str(path)), ListenOptions())
    assert path.read_text() == "precious"


@unix_only
@pytest.mark.parametrize(("make", "cause"), [(False, Cause.NOBODY_LISTENING), (True, Cause.REFUSED)])
async def test_a_unix_dial_tells_a_missing_socket_from_a_dead_one(
    tmp_path: Path, make: bool, cause: Cause
) -> None:
    """No file is nobody listening; a file without its process is refused."""
    if sys.platform == "win32":
        raise NotImplementedError
    path = tmp_path / "s"
    if make:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    with pytest.raises(DialError) as caught:
        await unix.dial(UnixEndpoint(str(path)), DialOptions())
    assert caught.value.cause is cause


@linux_only
async def test_a_unix_dial_waits_while_the_backlog_is_full(tmp_path: Path) -> None:
    """A connect that finds the backlog full is tried again, rather than taken for a connection."""
    if sys.platform == "win32":
        raise NotImplementedError
    path = str(tmp_path / "s")
    (listener,) = await unix.listen(UnixEndpoint(path), ListenOptions(backlog=0))
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(path)  # the backlog is full now
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            client = await unix.dial(UnixEndpoint(path), DialOptions())
            await client.send_all(b"at last")
            await client.aclose()

        nursery.start_soon(dial)
        await trio.testing.wait_all_tasks_blocked()
        (await listener.accept()).abort()
        server = await listener.accept()
        assert await server.receive_some() == b"at last"
        server.abort()
    waiting.close()
    await listener.aclose()


@linux_only
async def test_a_dial_on_this_machine_need_not_wait(tmp_path: Path) -> None:
    """A loopback address and a Unix socket connect at once, with the options that any dial sets."""
    network = native_network()
    listeners = await tcp.listen(LOOPBACK, ListenOptions())
    listeners += await unix.listen(UnixEndpoint(str(tmp_path / "s")), ListenOptions())
    for listener in listeners:
        client = network.connector_nowait(parse_endpoint(listener.where), DialOptions(tcp_keepalive=60))()
        assert client is not None
        assert client.plain is not None
        assert not client.plain.getblocking()
        if client.plain.family == socket.AF_INET:
            assert client.plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert client.plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        server = await listener.accept()
        await client.send_all(b"hello")
        assert await server.receive_some() == b"hello"
        client.abort()
        server.abort()
        await listener.aclose()


@linux_only
async def test_a_dial_at_once_is_refused_as_any_other() -> None:
    """Where nobody listens, it is the same error with the same cause."""
    (listener,) = await tcp.listen(LOOPBACK, ListenOptions())
    endpoint = at(listener)
    await listener.aclose()
    with pytest.raises(DialError) as at_once:
        tcp.connect_nowait(endpoint, DialOptions())
    with pytest.raises(DialError) as waited:
        await tcp.dial(endpoint, DialOptions())
    assert at_once.value.cause is waited.value.cause
    assert str(at_once.value) == str(waited.value)


@linux_only
async def test_a_dial_at_once_leaves_nothing_where_it_must_wait() -> None:
    """A full backlog makes it give up, and its descriptor is closed."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        endpoint = TcpEndpoint("127.0.0.1", full.getsockname()[1])
        begun = [tcp.connect_nowait(endpoint, DialOptions()) for _ in range(3)]
        before = _open_descriptors()
        assert tcp.connect_nowait(endpoint, DialOptions()) is None
        assert _open_descriptors() == before
        for stream in begun:
            if stream is not None:
                stream.abort()


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("text", ["tcp://192.0.2.1:1", "tcp://localhost:1", "tcp://[::2]:1"])
def test_what_may_wait_is_not_dialled_at_once(text: str) -> None:
    """Another machine, or a name, is no matter of one call."""
    assert native_network().connector_nowait(parse_endpoint(text), DialOptions())() is None


class ScriptedSocket(trio.socket.SocketType):
    """A listening socket whose accepts fail as told, and then give a connection."""

    def __init__(self, *failures: OSError) -> None:
        self._failures = list(failures)

    async def accept(self):  # type: ignore[no-untyped-def]
        await trio.lowlevel.checkpoint()
        if self._failures:
            raise self._failures.pop(0)
        return trio.socket.socket(), ("127.0.0.1", 1)

    def close(self) -> None:
        self._failures.append(OSError(errno.EBADF, "closed"))


def scripted(*failures: OSError) -> Listener:
    return SocketListener(ScriptedSocket(*failures), "here", tcp.accepted)


@pytest.mark.parametrize(
    "code", [errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.ENETDOWN, 10053, 10054]
)
async def test_a_peer_that_left_before_accept_is_passed_over(code: int) -> None:
    """accept() reports connections that are gone already; the next one is taken."""
    listener = scripted(OSError(code, "gone"), OSError(code, "gone"))
    stream = await listener.accept()
    assert stream.peer == "127.0.0.1:1"
    stream.abort()


async def test_exhaustion_is_told_to_the_accept_loop() -> None:
    """EMFILE comes out, for trio's accept loop to wait and go on."""
    with pytest.raises(OSError, match="too many"):
        await scripted(OSError(errno.EMFILE, "too many")).accept()


async def test_a_closed_listener_says_that_it_is_closed() -> None:
    """Accepting from a closed listener is trio's ClosedResourceError."""
    listener = scripted()
    await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_every_dial_has_a_deadline(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport that hangs is ended by the dial's timeout, with its cause."""

    async def hang(endpoint: object, options: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(tcp, "dial", hang)
    with pytest.raises(DialError) as caught:
        await native_network().dial(LOOPBACK, DialOptions(timeout=7))
    assert caught.value.cause is Cause.TIMED_OUT
    assert trio.current_time() == pytest.approx(7)


async def test_localhost_is_loopback_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a hosts file lets localhost be an address that others reach, nothing is bound there."""

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    with pytest.raises(ListenError, match=r"localhost resolves to 192\.0\.2\.1") as caught:
        await tcp.listen(TcpEndpoint("localhost", 0), ListenOptions())
    assert caught.value.cause is Cause.EXPOSED


def on_platform(monkeypatch: pytest.MonkeyPatch, platform: str, *, vmbus: bool = False) -> Network:
    """The network that a machine of another platform would have."""
    monkeypatch.setattr(network_module.sys, "platform", platform)  # type: ignore[attr-defined]
    registry = SimpleNamespace(WindowsRegistry=object)  # the real one imports what only Windows has
    monkeypatch.setitem(sys.modules, "hvbridge.hyperv.services.windows", registry)
    monkeypatch.setattr(network_module.Path, "exists", lambda self: vmbus)  # type: ignore[attr-defined]
    return native_network()


def fault(network: Network, text: str, role: str = "connect") -> str | None:
    found = network.fault(parse_endpoint(text), role)  # type: ignore[arg-type]
    return None if found is None else str(found)


@linux_only
def test_the_emulator_is_never_chosen_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Hyper-V and without being asked for, a hyperv endpoint is a fault that says what to do."""
    monkeypatch.setattr(network_module.Path, "exists", lambda self: False)  # type: ignore[attr-defined]
    said = fault(network_from_environment({}), "hyperv://parent/22")
    assert said is not None
    assert "this machine has no Hyper-V" in said
    assert "HVBRIDGE_EMULATOR=DIR" in said
    assert fault(network_from_environment({"HVBRIDGE_EMULATOR": "/tmp/x"}), "hyperv://loopback/22") is None


@linux_only
@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("hyperv://parent/22", "connect", None),
        ("hyperv://parent/22", "listen", None),
        ("hyperv://any/22", "listen", None),
        ("hyperv://loopback/22", "connect", None),
        ("hyperv://parent/b1d00d3d-1111-4222-8333-444455556666", "connect", "vsock template"),
        ("hyperv://children/22", "listen", "can reach only its host"),
        ("hyperv://b1d00d3d-1111-4222-8333-444455556666/22", "connect", "can reach only its host"),
    ],
)
def test_a_linux_guest_takes_what_hv_sock_can(
    monkeypatch: pytest.MonkeyPatch, text: str, role: str, words: str | None
) -> None:
    """In a Linux guest only the host, and only services of the vsock template, can be reached."""
    said = fault(on_platform(monkeypatch, "linux", vmbus=True), text, role)
    assert said is None if words is None else words in (said or "")


@linux_only
def test_an_old_python_on_windows_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows without AF_HYPERV names the Python that has it, in one sentence."""
    said = fault(on_platform(monkeypatch, "win32"), "hyperv://parent/22")
    assert said is not None
    assert said.endswith("run hvbridge on CPython 3.12 or later")


def test_a_bad_partition_in_the_environment_is_named() -> None:
    """HVBRIDGE_PARTITION that is no VM is an error that names the variable."""
    with pytest.raises(ValueError, match="HVBRIDGE_PARTITION"):
        network_from_environment({"HVBRIDGE_EMULATOR": "x", "HVBRIDGE_PARTITION": "dev-box"})
