"""PROXY protocol with real peers: HAProxy and nginx in front send what we read, and behind read what we send."""

import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.proxy.proxy_protocol import Received, Version, header, receive
from hvbridge.transport.stream import SocketStream

from .support import PATIENCE, Place, wait_until

HAPROXY, NGINX = (
    shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin") for name in ("haproxy", "nginx")
)
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
VM = uuid.UUID("6a0c8e2e-0000-4000-8000-0000000000e2")
REQUEST = b"GET / HTTP/1.0\r\n\r\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="HAProxy and nginx are here on Linux only")
needs_haproxy = pytest.mark.skipif(
    HAPROXY is None, reason="NOT TESTED: PROXY protocol with HAProxy, which is not here (.ci/run installs it)"
)
needs_nginx = pytest.mark.skipif(
    NGINX is None or not NGINX_STREAM.exists(),
    reason="NOT TESTED: PROXY protocol with nginx, which is not here with its stream module (.ci/run installs both)",
)


@contextmanager
def running(*command: object, pass_fds: tuple[int, ...] = ()) -> Iterator[None]:
    """Run a program until the end of the block."""
    with subprocess.Popen(
        [str(word) for word in command], pass_fds=pass_fds, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def haproxy(directory: Path, *sections: str, listeners: tuple[socket.socket, ...] = ()) -> Iterator[None]:
    """Run HAProxy with these sections of its config; ``fd@N`` there is one of ``listeners``."""
    times = [f"timeout {what} 20s" for what in ("connect", "client", "server")]
    config = directory / "haproxy.cfg"
    config.write_text("\n".join(["defaults", *times, *sections, ""]))
    with running(HAPROXY, "-db", "-f", config, pass_fds=tuple(listener.fileno() for listener in listeners)):
        yield


@contextmanager
def nginx(directory: Path, server: str) -> Iterator[None]:
    """Run nginx with one ``server`` of its stream module."""
    config = directory / "nginx.conf"
    config.write_text(f"""
        load_module {NGINX_STREAM};
        daemon off;
        pid {directory}/nginx.pid;
        error_log {directory}/nginx.log;
        events {{}}
        stream {{ server {{ {server} }} }}
    """)
    with running(NGINX, "-p", directory, "-e", directory / "nginx.log", "-c", config):
        yield


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a listening socket of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """Give another, for what a proxy in front connects to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def accepted(upstream: socket.socket) -> tuple[Received, bytes]:
    """Accept a connection of a proxy; return what its header says, and the bytes after it."""
    near, _ = upstream.accept()
    near.setblocking(False)

    async def read() -> tuple[Received, bytes]:
        with trio.fail_after(PATIENCE):
            async with SocketStream(near) as stream:
                return await receive(stream), await stream.receive_some()

    return trio.run(read)


def end(sock: socket.socket, *, far: bool = False) -> TcpEndpoint:
    """One end of a connection."""
    return TcpEndpoint(*(sock.getpeername() if far else sock.getsockname()))


# In front of us.


@needs_haproxy
@pytest.mark.parametrize(
    ("options", "version", "tlvs"),
    [
        ("send-proxy", "v1", {}),
        ("send-proxy-v2", "v2", {}),
        ("send-proxy-v2 proxy-v2-options unique-id", "v2", {0x05: b"number 7"}),
    ],
)
def test_haproxy_in_front_says_who_the_client_is(
    place: Place,
    listener: socket.socket,
    upstream: socket.socket,
    options: str,
    version: Version,
    tlvs: dict[int, bytes],
) -> None:
    """What `send-proxy` and `send-proxy-v2` put before the client's bytes is read, and nothing of those bytes."""
    port = upstream.getsockname()[1]
    section = [
        "listen front",
        f"bind fd@{listener.fileno()}",
        'unique-id-format "number 7"',
        f"server us 127.0.0.1:{port} {options}",
    ]
    with (
        haproxy(place.directory, *section, listeners=(listener,)),
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(b"PROXY in the client's own bytes\r\n")
        said, rest = accepted(upstream)
        assert said == Received(version, end(client), end(client, far=True), tlvs)
        assert rest == b"PROXY in the client's own bytes\r\n"


@needs_haproxy
def test_the_health_check_of_haproxy_is_a_header_without_a_client(
    place: Place, listener: socket.socket, upstream: socket.socket
) -> None:
    """Its checks of a server with `send-proxy-v2` are of the command LOCAL."""
    port = upstream.getsockname()[1]
    section = [
        "listen front",
        f"bind fd@{listener.fileno()}",
        "option tcp-check",
        "tcp-check connect default",
        "tcp-check send ping",
        f"server us 127.0.0.1:{port} check inter 50ms send-proxy-v2",
    ]
    with haproxy(place.directory, *section, listeners=(listener,)):
        said, rest = accepted(upstream)
    assert said.source is said.destination is None
    assert rest == b"ping"


@needs_nginx
def test_nginx_in_front_says_who_the_client_is(place: Place, upstream: socket.socket) -> None:
    """What `proxy_protocol on` of its stream module puts before the client's bytes is read."""
    port, front = upstream.getsockname()[1], free_port()
    server = f"listen 127.0.0.1:{front}; proxy_pass 127.0.0.1:{port}; proxy_protocol on;"
    with nginx(place.directory, server), dialled(("127.0.0.1", front)) as client:
        client.sendall(b"hello")
        said, rest = accepted(upstream)
        assert said == Received("v1", end(client), end(client, far=True))
        assert rest == b"hello"


# Behind us.

V4 = (TcpEndpoint("192.0.2.1", 56324), TcpEndpoint("198.51.100.7", 443))
V6 = (TcpEndpoint("2001:db8::1", 56324), TcpEndpoint("2001:db8::2", 443))
MIXED = (V4[0], V6[1])

clients = pytest.mark.parametrize(("source", "destination"), [V4, V6, MIXED], ids=["IPv4", "IPv6", "mixed"])
versions = pytest.mark.parametrize("version", ["v1", "v2"])


@contextmanager
def haproxy_behind(place: Place, listener: socket.socket) -> Iterator[socket.socket]:
    """Connect to a HAProxy that expects a header, and answers a request with what it then knows of its client."""
    known = " ".join(f"%[{name}]" for name in ("src", "src_port", "dst", "dst_port"))
    section = [
        "frontend behind",
        "mode http",
        f"bind fd@{listener.fileno()} accept-proxy",
        f'http-request return status 200 content-type text/plain lf-string "{known}"',
    ]
    with haproxy(place.directory, *section, listeners=(listener,)), dialled(listener.getsockname()) as sock:
        yield sock


@contextmanager
def nginx_behind(place: Place) -> Iterator[socket.socket]:
    """The same of nginx, which says it at once."""
    path = place.directory / "nginx"
    known = " ".join(f"$proxy_protocol_{name}" for name in ("addr", "port", "server_addr", "server_port"))
    server = f'listen unix:{path} proxy_protocol; return "{known}";'
    with nginx(place.directory, server), dialled(str(path)) as sock:
        yield sock


def answer(sock: socket.socket, sent: bytes) -> str:
    """Send to a connection, and return all that comes back."""
    sock.sendall(sent)
    with sock.makefile("rb") as file:
        return file.read().decode()


def ends_in(said: str) -> tuple[TcpEndpoint, TcpEndpoint]:
    """The two ends that a peer tells of; an IPv4 address may stand there in the form of IPv6."""
    source, source_port, destination, destination_port = said.split()
    hosts = [getattr(ip, "ipv4_mapped", None) or ip for ip in map(ip_address, (source, destination))]
    return TcpEndpoint(str(hosts[0]), int(source_port)), TcpEndpoint(str(hosts[1]), int(destination_port))


@needs_haproxy
@versions
@clients
def test_haproxy_behind_learns_who_the_client_is(
    place: Place,
    listener: socket.socket,
    version: Version,
    source: TcpEndpoint,
    destination: TcpEndpoint,
) -> None:
    """`accept-proxy` takes both versions, and the TLVs do not disturb it."""
    with haproxy_behind(place, listener) as sock:
        said = answer(sock, header(version, source, destination, vm=VM, forward="web") + REQUEST)
        assert ends_in(said.partition("\r\n\r\n")[2]) == (source, destination)


@needs_haproxy
@versions
@pytest.mark.parametrize("vm", [VM, None])
def test_haproxy_behind_serves_a_client_without_addresses(
    place: Place, listener: socket.socket, version: Version, vm: uuid.UUID | None
) -> None:
    """It takes the connection's own ends for those of the client."""
    with haproxy_behind(place, listener) as sock:
        ends = " ".join(str(part) for pair in (sock.getsockname(), sock.getpeername()) for part in pair)
        said = answer(sock, header(version, None, None, vm=vm, forward="web") + REQUEST)
        assert said.partition("\r\n\r\n")[2] == ends


@needs_nginx
@versions
@clients
def test_nginx_behind_learns_who_the_client_is(
    place: Place, version: Version, source: TcpEndpoint, destination: TcpEndpoint
) -> None:
    """`listen … proxy_protocol` takes both versions, and the TLVs do not disturb it."""
    with nginx_behind(place) as sock:
        said = answer(sock, header(version, source, destination, vm=VM, forward="web"))
        assert ends_in(said) == (source, destination)


@needs_nginx
@versions
@pytest.mark.parametrize("vm", [VM, None])
def test_nginx_behind_serves_a_client_without_addresses(
    place: Place, version: Version, vm: uuid.UUID | None
) -> None:
    """Its variables are empty then."""
    with nginx_behind(place) as sock:
        assert answer(sock, header(version, None, None, vm=vm, forward="web")) == "   "


@contextmanager
def dialled(address: tuple[str, int] | str) -> Iterator[socket.socket]:
    """Connect to a program as soon as it listens."""
    with ExitStack() as stack:
        connected: list[socket.socket] = []

        def connect() -> bool:
            family = socket.AF_INET
            if isinstance(address, str):
                if sys.platform == "win32":
                    raise NotImplementedError
                family = socket.AF_UNIX
            sock = stack.enter_context(socket.socket(family))
            sock.settimeout(PATIENCE)
            if sock.connect_ex(address):
                return False
            connected.append(sock)
            return True

        wait_until(connect, f"a connection to {address}")
        yield connected[0]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
