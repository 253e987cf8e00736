"""`hvbridge run`: ready or not at all, signals, the drain, and the log."""

import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from .conftest import Way
from .support import (
    MODULE,
    PATIENCE,
    RUN,
    STOP,
    VM,
    Place,
    Service,
    dial,
    dial_is_reset,
    echo,
    is_reset,
    random_bytes,
    receive_all,
    reset,
    talk,
    wait_until,
)

StartService = Callable[[Callable[[socket.socket], None]], Service]


def forward(
    name: str, connect: object, listen: str = "tcp://127.0.0.1:0", **settings: object
) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": name, "listen": listen, "connect": str(connect), **settings}


def test_says_ready_with_a_table(place: Place, service: StartService) -> None:
    """When all listeners are bound it says so, on standard error, with the port that each one got."""
    echoing = service(echo)
    config = place.config(
        forward("ssh", echoing.endpoint),
        forward("rdp", f"hyperv://{VM}/b1d00d3d-0000-4000-8000-00000000c0de"),
    )
    program = place.program(*RUN, config)
    rdp = program.expect_line("rdp ")
    lines = program.stderr.splitlines()
    assert lines[0] == "hvbridge is ready"
    assert lines[1].split() == ["forward", "listens", "on", "connects", "to"]
    ssh = re.fullmatch(rf"ssh      tcp://127\.0\.0\.1:(\d+)  →  {re.escape(echoing.endpoint)} *", lines[2])
    assert ssh, lines[2]
    assert f"hyperv://{VM}/b1d00d3d-0000-4000-8000-00000000c0de" in rdp
    with dial(int(ssh[1])) as client:
        assert talk(client) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b""
    closed = program.expect_line("connection closed")
    assert "forward=ssh" in closed
    assert "reason=eof" in closed
    assert program.stop() == 0


def test_binds_all_or_none(place: Place) -> None:
    """With two ports in use it names both, serves none, and exits with 1."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [taken.getsockname()[1] for taken in (one, other)]
        forwards = [forward(f"taken-{port}", "127.0.0.1:1", f"tcp://127.0.0.1:{port}") for port in ports]
        free = place.directory / "free.sock"
        if sys.platform != "win32":
            forwards.insert(0, forward("free", "127.0.0.1:1", f"unix://{free}"))
        program = place.program(*MODULE, "run", place.config(*forwards))
        assert program.wait() == 1
    lines = program.stderr.splitlines()
    for port in ports:
        (line,) = (line for line in lines if f'forward "taken-{port}"' in line)
        assert f"cannot listen on tcp://127.0.0.1:{port}: the address is in use" in line
        assert line.endswith("; stop the program that uses the port, or use another port")
    assert "is ready" not in program.stderr
    assert not free.exists()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(STOP, id="stop"),
        pytest.param(
            signal.SIGINT,
            id="SIGINT",
            marks=pytest.mark.skipif(
                sys.platform == "win32", reason="Ctrl-C cannot be sent to one process alone on Windows"
            ),
        ),
    ],
)
def test_signal_drains(number: int, place: Place, service: StartService) -> None:
    """A signal closes the listener at once, and what is in flight finishes; the exit code is 0."""
    asked, may_answer = threading.Event(), threading.Event()
    answer = random_bytes(1_000_000)

    def answer_late(sock: socket.socket) -> None:
        receive_all(sock)
        asked.set()
        may_answer.wait(PATIENCE)
        sock.sendall(answer)

    bridge = place.bridge(forward("late", service(answer_late).endpoint), arguments=["--grace", "1h"])
    with bridge.dial("late") as client:
        mine = client.getsockname()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert asked.wait(PATIENCE)
        bridge.signal(number)
        bridge.expect_line('"draining"')
        wait_until(lambda: refuses(bridge.port("late")), "the listener closes")
        may_answer.set()
        assert receive_all(client) == answer
    assert bridge.wait() == 0
    record = bridge.record_of(mine)
    assert (record["reason"], record["upstream_to_client"]) == ("eof", len(answer))


def test_grace_ends(place: Place, service: StartService) -> None:
    """What is still open when the grace period is over is cut, which is a drain nevertheless."""
    bridge = place.bridge(forward("echo", service(echo).endpoint), arguments=["--grace", "200ms"])
    with bridge.dial("echo") as client:
        assert talk(client) == b"hello"
        bridge.signal()
        assert is_reset(client)
    assert bridge.wait() == 0
    assert [record["reason"] for record in bridge.records()] == ["shutdown"]


def test_second_signal_ends_at_once(place: Place, service: StartService) -> None:
    """A second signal does not wait for the grace period."""
    bridge = place.bridge(forward("echo", service(echo).endpoint), arguments=["--grace", "1h"])
    with bridge.dial("echo") as client:
        assert talk(client) == b"hello"
        bridge.signal()
        bridge.expect_line('"draining"')
        assert talk(client, b"still here") == b"still here"
        bridge.signal()
        assert is_reset(client)
    assert bridge.wait() == 0
    assert bridge.expect_line('"ending at once"')


def test_one_record_a_connection(way: Way) -> None:
    """Each connection leaves just one closing record, with who, whereto, how much, how long and why."""
    with way.host.dial("digest") as client:
        mine = client.getsockname()
        client.sendall(bytes(100_000))
        client.shutdown(socket.SHUT_WR)
        receive_all(client)
    record = way.host.record_of(mine)
    assert record["reason"] == "eof", record
    assert set(record) == {
        "event", "level", "timestamp", "id", "forward", "peer", "upstream",
        "client_to_upstream", "upstream_to_client", "seconds", "dial_seconds", "reason",
    }  # fmt: skip
    assert (record["forward"], record["upstream"]) == ("digest", way.endpoint(9))
    assert (record["client_to_upstream"], record["upstream_to_client"]) == (100_000, 64)
    assert (record["reason"], record["level"]) == ("eof", "info")
    assert 0 <= record["dial_seconds"] <= record["seconds"] < PATIENCE
    assert len([record for record in way.host.records() if record["peer"].endswith(f":{mine[1]}")]) == 1
    way.guest.expect(
        lambda _: [
            r
            for r in way.guest.records()
            if (r["peer"], r["client_to_upstream"]) == ("hyperv://parent", 100_000)
        ],
        "the guest's record of the same",
    )


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_reset_is_a_reset_all_the_way(side: str, place: Place, service: StartService) -> None:
    """A reset at one end is a reset at the other, through both bridges, and both records name the side."""
    seen: list[bool] = []

    def end(sock: socket.socket) -> None:
        sock.sendall(sock.recv(5))
        if side == "upstream":
            reset(sock)
        else:
            seen.append(is_reset(sock))

    guest = place.bridge(forward("end", service(end).endpoint, "hyperv://parent/7"), partition=VM)
    host = place.bridge(forward("end", f"hyperv://{VM}/7"))
    client = host.dial("end")
    assert talk(client) == b"hello"
    if side == "client":
        reset(client)
        wait_until(lambda: seen, "the service sees the end")
    else:
        seen.append(is_reset(client))
        client.close()
    assert seen == [True]
    for bridge in (host, guest):
        (record,) = bridge.expect_records(1)
        assert record["reason"] == f"reset by {side}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process to let clients gather")
@pytest.mark.parametrize("through", ["tcp", "emulator"])
def test_connections_keep_their_order(through: str, place: Place) -> None:
    """Clients that were accepted together reach the service in the order in which they came."""
    if sys.platform == "win32":
        raise NotImplementedError
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        target = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        bridges = []
        if through == "emulator":
            bridges.append(place.bridge(forward("it", target, "hyperv://parent/7"), partition=VM))
            target = f"hyperv://{VM}/7"
        host = place.bridge(forward("it", target))
        bridges.append(host)
        server.settimeout(PATIENCE)
        for _ in range(8):  # by chance, one of two would be right
            for bridge in bridges:
                bridge.process.send_signal(signal.SIGSTOP)
            clients = [host.dial("it") for _ in range(5)]
            for number, client in enumerate(clients):
                client.sendall(bytes([number]))
            for bridge in reversed(bridges):
                bridge.process.send_signal(signal.SIGCONT)
                time.sleep(0.05)  # the guest goes on when all of the host's dials wait for it
            upstreams = [server.accept()[0] for _ in clients]
            order = [upstream.recv(1)[0] for upstream in upstreams]
            for end in (*clients, *upstreams):
                end.close()
            assert order == [0, 1, 2, 3, 4]


def test_dial_error_is_told(place: Place) -> None:
    """A client whose upstream cannot be reached is reset, and the record says why and what to do."""
    host = place.bridge(forward("a", f"hyperv://{VM}/7"), forward("b", "tcp://127.0.0.1:1"))
    for name, why in [("a", "the VM is not running"), ("b", "the connection was refused")]:
        assert dial_is_reset(host.port(name))
        (record,) = (record for record in host.expect_records(1 + (name == "b")) if record["forward"] == name)
        assert (record["reason"], record["level"], record["dial_seconds"]) == ("dial failed", "warning", None)
        assert why in record["detail"]
        assert "; start the " in record["detail"]


def test_log_level_hides_the_rest(place: Place, service: StartService) -> None:
    """At level warning a good connection leaves no line, and a failed one still does."""
    config = place.config(forward("good", service(echo).endpoint), forward("bad", "tcp://127.0.0.1:1"))
    program = place.program(*RUN, config, "--log-level", "warning")
    ports = [int(program.expect_line(f"{name} ").split()[1].rpartition(":")[2]) for name in ("good", "bad")]
    with dial(ports[0]) as good:
        assert talk(good) == b"hello"
    assert dial_is_reset(ports[1])
    program.expect_line("forward=bad")
    assert program.stop() == 0
    assert "forward=good" not in program.stderr
    assert "draining" not in program.stderr


def test_log_is_one_object_a_line(place: Place, service: StartService) -> None:
    """With --log-format json every line is an object with event, level and a time in UTC, from ready to end."""
    bridge = place.bridge(forward("echo", service(echo).endpoint))
    with bridge.dial("echo") as client:
        assert talk(client) == b"hello"
    bridge.expect_records(1)
    assert bridge.stop() == 0
    log = [json.loads(line) for line in bridge.lines]
    assert [entry["event"] for entry in log] == ["ready", "connection closed", "draining"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry["timestamp"]) for entry in log)
    assert {entry["level"] for entry in log} == {"info"}
    assert log[0]["forwards"] == [
        {
            "forward": "echo",
            "listen": [f"tcp://127.0.0.1:{bridge.port('echo')}"],
            "connect": str(log[1]["upstream"]),
        }
    ]


@pytest.mark.skipif(
    sys.platform == "win32", reason="there, the emulator runs over TCP, where a killed process leaves an end"
)
def test_killed_guest_is_a_reset(place: Place, service: StartService) -> None:
    """When the guest's bridge is killed, the host's client sees a reset and not a clean end."""
    guest = place.bridge(forward("echo", service(echo).endpoint, "hyperv://parent/7"), partition=VM)
    host = place.bridge(forward("echo", f"hyperv://{VM}/7"))
    with host.dial("echo") as client:
        assert talk(client) == b"hello"
        guest.kill()
        assert is_reset(client)
    assert [record["reason"] for record in host.expect_records(1)] == ["reset by upstream"]


def test_killed_guest_can_start_again(place: Place, service: StartService) -> None:
    """What a killed guest leaves in the emulator hinders neither its successor nor the host."""
    echoing = forward("echo", service(echo).endpoint, "hyperv://parent/7")
    place.bridge(echoing, partition=VM).kill()
    host = place.bridge(forward("echo", f"hyperv://{VM}/7"))
    place.bridge(echoing, partition=VM)
    with host.dial("echo") as client:
        assert talk(client) == b"hello"


def test_second_guest_on_a_service_is_refused(place: Place, service: StartService) -> None:
    """Two listeners for one service of one VM: the second says so, and the first goes on."""
    echoing = forward("echo", service(echo).endpoint, "hyperv://parent/7")
    place.bridge(echoing, partition=VM)
    second = place.program(*MODULE, "run", place.config(echoing, partition=VM))
    assert second.wait() == 1
    assert 'forward "echo": cannot listen on hyperv://parent/7: the address is in use' in second.stderr
    host = place.bridge(forward("echo", f"hyperv://{VM}/7"))
    with host.dial("echo") as client:
        assert talk(client) == b"hello"


def refuses(port: int) -> bool:
    """Say whether nobody listens on ``port`` any more."""
    with suppress(ConnectionResetError):  # taken by the kernel just before the listener closed
        try:
            dial(port).close()
        except ConnectionRefusedError:
            return True
    return False
