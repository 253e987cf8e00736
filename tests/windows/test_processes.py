"""hvbridge as it is used on Windows: a process on the host, one in a guest, Hyper-V sockets between them."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.e2e.support import MODULE, PATIENCE, Bridge, Place, Service, echo, is_reset, receive_all, run, talk

from .partitions import GUEST, HOST, Partitions, needs_partitions

pytestmark = needs_partitions

APP = "b1d00d3d-3c6e-4f2b-9a54-d5f3a0c7e81b"
StartService = Callable[[Callable[[socket.socket], None]], Service]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a place for the bridges of a test, which end with it."""
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def service() -> Iterator[StartService]:
    """Give a function that starts a TCP service."""
    services: list[Service] = []

    def start(handle: Callable[[socket.socket], None]) -> Service:
        services.append(Service(handle))
        return services[-1]

    yield start
    for service in services:
        service.close()


def bridge(
    place: Place,
    partitions: Partitions,
    partition: UUID | None,
    listen: str,
    connect: str,
    *arguments: str,
    **settings: str,
) -> Bridge:
    """Run a bridge with one forward in a partition."""
    partitions.enter(partition)
    forward = {"name": "it", "listen": listen, "connect": connect, **settings}
    return place.bridge(forward, partition=None, arguments=arguments)


def digest(sock: socket.socket) -> None:
    """Answer the end of the input with its SHA-256."""
    sha256 = hashlib.sha256()
    while data := sock.recv(65536):
        sha256.update(data)
    sock.sendall(sha256.digest())


@pytest.mark.parametrize("mode", ["nonblocking", "thread", "auto"])
def test_host_to_guest(partitions: Partitions, place: Place, service: StartService, mode: str) -> None:
    """A client on the host reaches a TCP service in the guest; its end of data does not end the answer."""
    bridge(place, partitions, GUEST, "hyperv://parent/9", service(digest).endpoint)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/9", connect_mode=mode)
    data = os.urandom(20_000_000)
    with host.dial("it") as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == hashlib.sha256(data).digest()
        own = client.getsockname()
    record = host.record_of(own)
    assert (record["reason"], record["client_to_upstream"], record["upstream_to_client"]) == (
        "eof",
        len(data),
        32,
    )


@pytest.mark.parametrize("scope", ["children", "any", str(GUEST)])
def test_guest_to_host(partitions: Partitions, place: Place, service: StartService, scope: str) -> None:
    """A client in the guest reaches a TCP service of the host."""
    partitions.run(GUEST)
    bridge(place, partitions, HOST, f"hyperv://{scope}/7", service(echo).endpoint)
    guest = bridge(place, partitions, GUEST, "127.0.0.1:0", "hyperv://parent/7")
    with guest.dial("it") as client:
        assert talk(client) == b"hello"


def test_reset_travels_the_whole_way(partitions: Partitions, place: Place, service: StartService) -> None:
    """A service that resets its connection resets the client's, across two bridges."""

    def cut(sock: socket.socket) -> None:
        assert talk(sock, b"now") == b"now"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0")
        sock.close()

    guest = bridge(place, partitions, GUEST, "hyperv://parent/7", service(cut).endpoint)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/7")
    with host.dial("it") as client:
        assert client.recv(3) == b"now"
        client.sendall(b"now")
        assert is_reset(client)
    for each in (host, guest):
        assert [record["reason"] for record in each.expect_records(1)] == ["reset by upstream"]


def test_guest_that_is_gone_resets_the_client(
    partitions: Partitions, place: Place, service: StartService
) -> None:
    """A client whose VM has nobody listening is reset, and the record and its advice say why."""
    partitions.run(GUEST)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/7")
    with host.dial("it") as client:
        assert is_reset(client)
    assert "10061" in host.expect_line("10061")


def test_connect_passes_bytes_as_they_are(
    partitions: Partitions, place: Place, service: StartService
) -> None:
    """`hvbridge connect` through pipes changes no byte, whatever Windows does to text."""
    bridge(place, partitions, GUEST, "hyperv://parent/7", service(echo).endpoint)
    partitions.enter(HOST)
    data = b"\r\n\n\r\x1a\0" + bytes(range(256)) * 4096
    done = run(*MODULE, "connect", f"hyperv://{GUEST}/7", send=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


@pytest.mark.parametrize(
    ("state", "number"), [("off", "10049"), ("idle", "10061"), ("silent", "10060"), ("unregistered", "10013")]
)
def test_connect_says_what_failed(partitions: Partitions, state: str, number: str) -> None:
    """A dial that fails ends with one line that holds Windows's own number and what to do."""
    if state != "off":
        partitions.run(GUEST, silent=state == "silent")
    if state == "unregistered":
        partitions.require_registration()
    done = run(*MODULE, "connect", f"hyperv://{GUEST}/7", "--dial-timeout", "2s")
    [line] = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert number in line or (state == "silent" and "no answer" in line)
    assert "; " in line


def test_a_registered_name_is_the_service(
    partitions: Partitions, place: Place, service: StartService
) -> None:
    """A service of the registry of Windows is dialled by its name, in a config and by `connect`."""
    partitions.require_registration()
    assert run(*MODULE, "services", "register", "my app", "--id", APP).returncode == 0
    bridge(place, partitions, GUEST, f"hyperv://parent/{APP}", service(echo).endpoint)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/My App")
    with host.dial("it") as client:
        assert talk(client) == b"hello"
    done = run(*MODULE, "connect", f"hyperv://{GUEST}/my app", send=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
    done = run(*MODULE, "connect", f"hyperv://{GUEST}/my ap")
    assert done.returncode == 2
    assert b'"my ap" is not a service; did you mean my app?' in done.stderr


def test_break_drains(partitions: Partitions, place: Place, service: StartService) -> None:
    """SIGBREAK ends listening at once, lets what is in flight finish, and the exit code is 0."""
    may_answer = threading.Event()

    def answer_late(sock: socket.socket) -> None:
        receive_all(sock)
        may_answer.wait(PATIENCE)
        sock.sendall(b"late")

    bridge(place, partitions, GUEST, "hyperv://parent/7", service(answer_late).endpoint)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/7", "--grace", "1h")
    with host.dial("it") as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        host.signal()
        host.expect_line('"draining"')
        may_answer.set()
        assert receive_all(client) == b"late"
    assert host.wait() == 0


def test_second_break_ends_at_once(partitions: Partitions, place: Place, service: StartService) -> None:
    """A second SIGBREAK does not wait for what is in flight."""
    bridge(place, partitions, GUEST, "hyperv://parent/7", service(echo).endpoint)
    host = bridge(place, partitions, HOST, "127.0.0.1:0", f"hyperv://{GUEST}/7", "--grace", "1h")
    with host.dial("it") as client:
        assert talk(client) == b"hello"
        host.signal()
        host.expect_line('"draining"')
        host.signal()
        assert host.wait() == 0
        assert is_reset(client)
