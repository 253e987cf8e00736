"""What a bridge must live through: peers that hang, vanish or never read, and a machine that runs out of things."""

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from .conftest import Way
from .support import (
    MODULE,
    PATIENCE,
    VM,
    Bridge,
    Place,
    Service,
    answers,
    dial,
    echo,
    is_reset,
    linux_only,
    posix_only,
    receive,
    receive_all,
    reset,
    talk,
    wait_until,
)

StartService = Callable[[Callable[[socket.socket], None]], Service]

MIB = 1024 * 1024
CALM = 0.5
"""Seconds without progress after which a writer counts as stopped."""


def forward(
    name: str, connect: str, listen: str = "tcp://127.0.0.1:0", **settings: object
) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": name, "listen": listen, "connect": connect, **settings}


def test_hanging_dials_harm_nobody_else(way: Way) -> None:
    """Dials into silence wait their turn by max_pending_dials, and no other forward notices them."""
    hang = 10 if sys.platform == "win32" else 1  # seconds, in which there must be time for all that follows
    host = way.place.bridge(
        forward("silent", way.endpoint(99), dial_timeout=f"{hang}s", max_pending_dials=1),
        forward("echo", way.endpoint(7)),
    )
    with ExitStack() as held:
        silent = [held.enter_context(host.dial("silent")) for _ in range(5)]
        for _ in range(20):
            with host.dial("echo") as client:
                assert talk(client) == b"hello"
        assert not [record for record in host.records() if record["reason"] == "dial failed"]
        assert all(is_reset(client) for client in silent)
        wait_until(lambda: len(failed(host)) == 5, "five closing records")
    in_turn = [record for record in failed(host) if "no answer from that service" in record["detail"]]
    queued = [record for record in failed(host) if "max_pending_dials" in record["detail"]]
    # The second may get the slot just as the first gives up; no third can.
    assert 1 <= len(in_turn) <= 2
    assert len(in_turn) + len(queued) == 5
    assert all(record["seconds"] < hang + 4 for record in queued)


def failed(bridge: Bridge) -> list[dict[str, Any]]:
    """Return the closing records of failed dials."""
    return [record for record in bridge.records() if record["reason"] == "dial failed"]


def test_limit_holds_the_surplus_in_the_backlog(place: Place, service: StartService) -> None:
    """Above max_connections a client waits, connected but unheard, and is served when another leaves."""
    heard: list[bytes] = []

    def hear(sock: socket.socket) -> None:
        while data := sock.recv(1):
            heard.append(data)
            sock.sendall(data)

    bridge = place.bridge(forward("few", service(hear).endpoint, max_connections=2))
    with bridge.dial("few") as first, bridge.dial("few") as second, bridge.dial("few") as third:
        third.sendall(b"3")
        assert talk(first, b"1") == b"1"
        assert talk(second, b"2") == b"2"
        third.settimeout(CALM)
        with pytest.raises(TimeoutError):
            third.recv(1)
        assert heard == [b"1", b"2"]
        first.close()
        third.settimeout(PATIENCE)
        assert receive(third, 1) == b"3"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets a process no limit of descriptors")
def test_listener_outlives_want_of_descriptors(place: Place, service: StartService) -> None:
    """With more clients than descriptors, the surplus waits or fails; when they leave, the forward serves on."""
    limited = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    bridge = place.bridge(forward("echo", service(echo).endpoint), before=limited)
    with ExitStack() as clients:
        for _ in range(60):
            with suppress(ConnectionError):  # reset, as there was no descriptor left to dial with
                clients.enter_context(bridge.dial("echo")).sendall(b"x")
        bridge.expect_line("Too many open files")
    wait_until(lambda: answers(bridge.port("echo")), "the forward serves on")
    assert bridge.stop() == 0


def test_listeners_outlive_clients_that_vanish(way: Way) -> None:
    """Clients that reset at once, before they are accepted or dialled for, end nothing but themselves."""
    for _ in range(200):
        reset(way.host.dial("echo"))
    for _ in range(200):
        way.host.dial("echo").close()
    with way.host.dial("echo") as client:
        assert talk(client) == b"hello"


@posix_only
def test_guest_outlives_dialers_that_do_not_say_who_they_are(place: Place, service: StartService) -> None:
    """Connections to the emulator that say nothing, or nonsense, end nothing but themselves."""
    if sys.platform == "win32":
        raise NotImplementedError
    guest = place.bridge(forward("echo", service(echo).endpoint, "hyperv://parent/7"), partition=VM)
    (path,) = (path for path in (place.directory / "vm").iterdir() if path.is_socket())
    for nonsense in (b"", b"x", bytes(100)):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(nonsense)
    assert [record["reason"] for record in guest.expect_records(3)] == ["error on client"] * 3
    host = place.bridge(forward("echo", f"hyperv://{VM}/7"))
    with host.dial("echo") as client:
        assert talk(client) == b"hello"


@pytest.mark.parametrize("direction", ["to the client", "to the service"])
def test_stalled_reader_stops_the_writer(direction: str, place: Place, service: StartService) -> None:
    """A reader that stops reading stops the writer, in bounded memory; when it reads again, all arrives."""
    ends: list[socket.socket] = []
    taken, finished = threading.Event(), threading.Event()

    def lend(sock: socket.socket) -> None:
        ends.append(sock)
        taken.set()
        finished.wait(PATIENCE)

    guest = place.bridge(forward("bulk", service(lend).endpoint, "hyperv://parent/9"), partition=VM)
    host = place.bridge(forward("bulk", f"hyperv://{VM}/9"))
    with host.dial("bulk") as client:
        assert taken.wait(PATIENCE)
        writer, reader = (ends[0], client) if direction == "to the client" else (client, ends[0])
        before = [bridge.resident() for bridge in (guest, host)] if sys.platform == "linux" else []
        sent = send_until_stopped(writer)
        after = [bridge.resident() for bridge in (guest, host)] if sys.platform == "linux" else []
        # What the kernel holds: two TCP connections with buffers of up to 6 MiB a side, and the emulator's.
        assert sent < 64 * MIB
        assert all(new - old < 8 * MIB for old, new in zip(before, after, strict=True))
        writer.shutdown(socket.SHUT_WR)
        received = 0
        while chunk := reader.recv(MIB):
            received += len(chunk)
        assert received == sent
        finished.set()


def send_until_stopped(writer: socket.socket) -> int:
    """Send until nothing more is taken, but not without end, and return the number of bytes taken."""
    writer.settimeout(CALM)
    sent = 0
    while sent < 256 * MIB:
        try:
            sent += writer.send(bytes(MIB))
        except TimeoutError:
            break
    return sent


def test_many_connections_at_once(way: Way) -> None:
    """300 connections are open at once, each with its own bytes, and each gets a record of its own."""
    before = len(way.host.records())
    with ExitStack() as clients:
        crowd = [clients.enter_context(way.host.dial("echo")) for _ in range(300)]
        for number, client in enumerate(crowd):
            client.sendall(b"%08d" % number)
        assert [receive(client, 8) for client in crowd] == [b"%08d" % number for number in range(300)]
        mine = {f"127.0.0.1:{client.getsockname()[1]}" for client in crowd}
        for client in crowd:
            client.shutdown(socket.SHUT_WR)
        assert {receive_all(client) for client in crowd} == {b""}
    records = way.host.expect(
        lambda _: (
            found
            if len(found := [r for r in way.host.records()[before:] if r["peer"] in mine]) >= 300
            else None
        ),
        "300 records",
    )
    assert len(records) == len({record["id"] for record in records}) == 300
    assert {record["reason"] for record in records} == {"eof"}


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_listens_on_ipv6(place: Place, service: StartService) -> None:
    """A listener in brackets serves IPv6, and the record has the peer in brackets."""
    bridge = place.bridge(forward("six", service(echo).endpoint, "tcp://[::1]:0"))
    with dial(bridge.port("six"), "::1") as client:
        assert talk(client) == b"hello"
    (record,) = bridge.expect_records(1)
    assert record["peer"].startswith("[::1]:")


@posix_only
def test_unix_listener_is_private_and_goes_with_its_bridge(place: Place, service: StartService) -> None:
    """A Unix listener's file is for its owner alone, and gone when the bridge has ended."""
    if sys.platform == "win32":
        raise NotImplementedError
    path = place.directory / "echo.sock"
    bridge = place.bridge(forward("echo", service(echo).endpoint, f"unix://{path}"))
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        assert talk(client) == b"hello"
    assert bridge.stop() == 0
    assert not path.exists()


@posix_only
def test_killed_bridge_leaves_no_obstacle(place: Place, service: StartService) -> None:
    """A Unix listener takes over the file of a killed bridge, but never that of a living one, nor a plain file."""
    path = place.directory / "echo.sock"
    echoing = forward("echo", service(echo).endpoint, f"unix://{path}")
    place.bridge(echoing).kill()
    assert path.exists()
    place.bridge(echoing)
    second = place.program(*MODULE, "run", place.config(echoing))
    assert second.wait() == 1
    assert "the address is in use" in second.stderr
    plain = place.directory / "plain"
    plain.write_text("precious")
    third = place.program(*MODULE, "run", place.config(forward("echo", "127.0.0.1:1", f"unix://{plain}")))
    assert third.wait() == 1
    assert plain.read_text() == "precious"


@linux_only
def test_idle_connections_are_cheap(way: Way) -> None:
    """A connection that does nothing takes little memory, so that hundreds of them are no matter."""
    before = way.host.resident()
    with ExitStack() as clients:
        for _ in range(200):
            client = clients.enter_context(way.host.dial("echo"))
            assert talk(client) == b"hello"
        assert way.host.resident() - before < 200 * 64 * 1024
