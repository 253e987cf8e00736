"""Limits of a running bridge: who may connect, how many, how fast, and who a client is behind a proxy."""

import json
import socket
import sys
import time
from collections.abc import Callable

import pytest

from .support import (
    VM,
    Place,
    Service,
    answers,
    dial,
    dial_is_reset,
    echo,
    is_reset,
    receive,
    say_nothing,
    talk,
)

StartService = Callable[[Callable[[socket.socket], None]], Service]


def forward(connect: object, **settings: object) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": "it", "listen": "tcp://127.0.0.1:0", "connect": str(connect), **settings}


def test_who_is_not_allowed_is_cut_before_any_dial(place: Place, service: StartService) -> None:
    """A client from elsewhere sees a reset, the service hears nothing, and the log says why."""
    bridge = place.bridge(forward(service(echo).endpoint, allow=["192.0.2.0/24", "2001:db8::/32"]))
    assert dial_is_reset(bridge.port("it"))
    (record,) = bridge.expect_records(1)
    assert (record["reason"], record["dial_seconds"]) == ("refused", None)
    assert "allow" in record["detail"]


def test_vms_are_told_apart(place: Place, service: StartService) -> None:
    """A Hyper-V listener takes the VMs that allow names, and no others."""
    other = "6a0c8e2e-0000-4000-8000-0000000000e3"
    listen = "hyperv://children/7"
    host = place.bridge({**forward(service(echo).endpoint, allow=[VM]), "listen": listen})
    allowed = place.bridge(forward("hyperv://parent/7"), partition=VM)
    refused = place.bridge(forward("hyperv://parent/7"), partition=other)
    with allowed.dial("it") as client:
        assert talk(client) == b"hello"
    with refused.dial("it") as client:
        assert is_reset(client)
    assert {record["reason"] for record in host.expect_records(2)} == {"eof", "refused"}


def test_all_forwards_share_a_limit(place: Place, service: StartService) -> None:
    """[limits] max_connections counts the connections of every forward."""
    echoing = service(echo)
    config = place.config(
        {**forward(echoing.endpoint, when_full="refuse"), "name": "one"},
        {**forward(echoing.endpoint, when_full="refuse"), "name": "two"},
    )
    config.write_text(
        "[limits]\nmax_connections = 2\n" + config.read_text(encoding="utf-8"), encoding="utf-8"
    )
    bridge = place.bridge_of(config)
    with bridge.dial("one") as one, bridge.dial("two") as two:
        assert talk(one) == talk(two) == b"hello"
        assert dial_is_reset(bridge.port("one"))
        assert dial_is_reset(bridge.port("two"))
    bridge.expect_records(4)
    assert answers(bridge.port("two"))


def test_a_queue_waits_for_room(place: Place, service: StartService) -> None:
    """Above max_connections a client waits, and is served once another has left."""
    bridge = place.bridge(forward(service(echo).endpoint, max_connections=1))
    with bridge.dial("it") as second_to_come:
        assert talk(second_to_come) == b"hello"
        waiting = bridge.dial("it")
        waiting.sendall(b"still")
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
    waiting.settimeout(30)
    assert receive(waiting, 5) == b"still"
    waiting.close()


def test_a_rate_refuses_what_comes_faster(place: Place, service: StartService) -> None:
    """With a rate and refuse, the first in a minute is served and the next is reset."""
    bridge = place.bridge(forward(service(echo).endpoint, rate="1/h", when_full="refuse"))
    assert answers(bridge.port("it"))
    assert dial_is_reset(bridge.port("it"))
    assert {record["reason"] for record in bridge.expect_records(2)} == {"eof", "refused"}


def test_a_bandwidth_slows_a_connection_down(place: Place, service: StartService) -> None:
    """A limited connection takes the time that its bytes need, and nothing is lost."""
    bridge = place.bridge(forward(service(echo).endpoint, bandwidth="512KiB/s"))
    payload = bytes(range(256)) * 1024
    with bridge.dial("it") as client:
        began = time.monotonic()
        client.sendall(payload)
        assert receive(client, len(payload)) == payload
        assert time.monotonic() - began > 0.3


def test_a_client_is_who_the_trusted_proxy_says(place: Place, service: StartService) -> None:
    """A PROXY header names the client, in the log and to the upstream; a malformed one ends its connection alone."""
    heard: list[bytes] = []
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 22\r\n"

    def listening(sock: socket.socket) -> None:
        heard.append(receive(sock, len(header) + 5))
        sock.sendall(b"thanks")

    bridge = place.bridge(
        forward(
            service(listening).endpoint,
            accept_proxy=["127.0.0.1"],
            proxy_protocol="v1",
            allow=["192.0.2.0/24"],
        )
    )
    with bridge.dial("it") as client:
        client.sendall(header + b"hello")
        assert receive(client, 6) == b"thanks"
    with bridge.dial("it") as client:
        client.sendall(header.replace(b"192.0.2.7", b"203.0.113.7") + b"hello")
        assert is_reset(client)
    with bridge.dial("it") as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert is_reset(client)
    outcomes = {record["reason"]: record["peer"] for record in bridge.expect_records(3)}
    assert heard == [header + b"hello"]
    assert outcomes.keys() == {"eof", "refused", "error on client"}
    assert (outcomes["eof"], outcomes["refused"]) == ("192.0.2.7:4711", "203.0.113.7:4711")


def test_a_health_check_notices_a_phantom(place: Place, service: StartService) -> None:
    """A service that takes connections and says nothing is down, and is told of once."""
    silent = service(say_nothing)
    health = place.directory / "health.toml"
    health.write_text(
        "[[forward]]\n"
        f'name = "it"\nlisten = "tcp://127.0.0.1:0"\nconnect = {json.dumps(silent.endpoint)}\n'
        'health = { interval = "200ms", timeout = "500ms", expect = "SSH-" }\n',
        encoding="utf-8",
    )
    bridge = place.bridge_of(health)
    line = json.loads(bridge.expect_line("upstream is down"))
    assert "not the expected service" in line["cause"]
    time.sleep(1.5)
    assert sum("upstream is down" in text for text in list(bridge.lines)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the address of another machine's interface is Linux's")
def test_a_listener_for_others_needs_to_say_for_whom(place: Place, service: StartService) -> None:
    """With allow, a listener may be on every address; loopback clients must then be named, too."""
    echoing = service(echo)
    bridge = place.bridge({**forward(echoing.endpoint, allow=["127.0.0.0/8"]), "listen": "tcp://0.0.0.0:0"})
    with dial(bridge.port("it")) as client:
        assert talk(client) == b"hello"
