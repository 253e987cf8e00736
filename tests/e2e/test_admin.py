"""The admin endpoint of a real bridge: what it tells, what it changes, and what keeps it from starting."""

import http.client
import json
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from .support import (
    PATIENCE,
    Bridge,
    Place,
    Service,
    answers,
    echo,
    hvbridge,
    is_reset,
    say_nothing,
    talk,
    wait_until,
)

pytestmark = pytest.mark.skipif(
    find_spec("h11") is None or find_spec("starlette") is None,
    reason="the extra admin is not installed",
)

StartService = Callable[[Callable[[socket.socket], None]], Service]
TOKEN = "correct-horse-battery"


class Admin:
    """A bridge with an admin endpoint on TCP and a token."""

    def __init__(self, place: Place, *forwards: dict[str, object]) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        (place.directory / "admin.token").write_text(TOKEN + "\n", encoding="utf-8")
        self.config = place.config(*forwards, partition=None)
        self._head = f'[admin]\nlisten = "tcp://127.0.0.1:{self.port}"\ntoken_file = "admin.token"\n'
        self.rewrite(self.config.read_text(encoding="utf-8"))
        self.bridge: Bridge = place.bridge_of(self.config)

    def rewrite(self, text: str) -> None:
        """Write the config, [admin] apart."""
        self.config.write_text(self._head + text, encoding="utf-8")

    def ask(self, method: str, path: str, token: str | None = TOKEN) -> tuple[int, Any]:
        """Return the status and what was answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(
                method, path, headers={} if token is None else {"Authorization": f"Bearer {token}"}
            )
            response = connection.getresponse()
            body = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(body) if is_json else body.decode()
        finally:
            connection.close()


def forward(name: str, service: Service, **more: object) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": name, "listen": "tcp://127.0.0.1:0", "connect": service.endpoint, **more}


def test_it_tells_of_what_is_open_and_closes_it(place: Place, service: StartService) -> None:
    """An open connection is listed with live counts, and closing it resets both sides and is recorded so."""
    admin = Admin(place, forward("it", service(echo)))
    with admin.bridge.dial("it") as client:
        assert talk(client) == b"hello"
        _, (connection,) = admin.ask("GET", "/api/v1/connections")
        assert (connection["state"], connection["client_to_upstream"], connection["upstream_to_client"]) == (
            "open",
            5,
            5,
        )
        assert admin.ask("DELETE", f"/api/v1/connections/{connection['id']}")[0] == 204
        assert is_reset(client)
    assert admin.bridge.expect_records(1)[0]["reason"] == "closed by admin"
    assert admin.ask("DELETE", f"/api/v1/connections/{connection['id']}")[0] == 404
    _, (closing,) = admin.ask("GET", "/api/v1/closings")
    assert closing["reason"] == "closed by admin"
    _, metrics = admin.ask("GET", "/metrics")
    assert 'hvbridge_connections_closed_total{forward="it",reason="closed by admin"} 1.0' in metrics
    assert 'hvbridge_bytes_total{direction="client_to_upstream",forward="it"} 5.0' in metrics


def test_a_drained_forward_comes_back_by_a_reload(place: Place, service: StartService) -> None:
    """Draining refuses the new and keeps the old; the next reload lets it listen again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    admin = Admin(place, {**forward("it", service(echo)), "listen": f"tcp://127.0.0.1:{port}"})
    with admin.bridge.dial("it") as client:
        assert talk(client) == b"hello"
        assert admin.ask("POST", "/api/v1/forwards/it/drain")[0] == 204
        wait_until(lambda: not _listens(port), "the drained forward stops listening")
        assert talk(client) == b"hello"
        assert admin.ask("GET", "/readyz", None) == (503, {"ready": False, "forwards": {}})
        assert admin.ask("GET", "/api/v1/forwards")[1][0]["state"] == "draining"
        assert admin.ask("POST", "/api/v1/reload") == (200, {"changed": "changed: it"})
        assert answers(port)
        assert talk(client) == b"hello"
    assert admin.ask("GET", "/readyz", None)[0] == 200


def test_a_reload_with_faults_says_them_all(place: Place, service: StartService) -> None:
    """A bad config is answered with its faults, by line and column, and the bridge goes on."""
    admin = Admin(place, forward("it", service(echo)))
    admin.rewrite('[[forward]]\nname = "it"\nlisten = "nowhere"\nconect = "tcp://127.0.0.1:1"\n')
    status, answer = admin.ask("POST", "/api/v1/reload")
    assert status == 422
    assert len(answer["faults"]) == 3
    assert any("did you mean connect?" in fault for fault in answer["faults"])
    assert answers(admin.bridge.port("it"))
    _, metrics = admin.ask("GET", "/metrics")
    assert 'hvbridge_reloads_total{result="failed"} 1.0' in metrics


def test_without_the_token_nothing_is_told_and_nothing_done(place: Place, service: StartService) -> None:
    """Whoever lacks the token learns that the bridge lives and is ready, and no more."""
    admin = Admin(place, forward("it", service(echo)))
    assert admin.ask("GET", "/livez", None) == (200, "ok")
    assert admin.ask("GET", "/readyz", None) == (200, {"ready": True, "forwards": {}})
    for method, path in (("GET", "/api/v1/forwards"), ("GET", "/metrics"), ("POST", "/api/v1/reload")):
        assert admin.ask(method, path, None)[0] == 401
        assert admin.ask(method, path, "guess")[0] == 401


def test_health_decides_about_readiness(place: Place, service: StartService) -> None:
    """A forward whose service does not say what is expected keeps the bridge from being ready."""
    silent = service(say_nothing)
    config = place.config(partition=None)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config.write_text(
        f'[admin]\nlisten = "tcp://127.0.0.1:{port}"\n'
        f'[[forward]]\nname = "it"\nlisten = "tcp://127.0.0.1:0"\nconnect = "{silent.endpoint}"\n'
        'health = { interval = "200ms", timeout = "300ms", expect = "SSH-" }\n',
        encoding="utf-8",
    )
    place.bridge_of(config).expect_line("upstream is down")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    assert response.status == 503
    assert "not the expected service" in json.loads(response.read())["forwards"]["it"]
    connection.close()


@pytest.mark.parametrize("what", ["taken", "no token", "no token file"])
def test_what_keeps_it_from_starting_is_one_sentence(what: str, place: Place, service: StartService) -> None:
    """An address in use, and a token that cannot be read, end the program with a message, and nothing listens."""
    config = place.config(forward("it", service(echo)), partition=None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if what == "taken" else 0
        head = f'[admin]\nlisten = "tcp://127.0.0.1:{port}"\n'
        if what != "taken":
            head += 'token_file = "admin.token"\n'
        if what == "no token":
            (place.directory / "admin.token").write_text("\n", encoding="utf-8")
        config.write_text(head + config.read_text(encoding="utf-8"), encoding="utf-8")
        done = hvbridge("run", config)
    assert done.returncode == (1 if what == "taken" else 2)
    message = done.stderr.decode()
    expected = {
        "taken": "the address is in use",
        "no token": "does not contain a valid token",
        "no token file": "cannot be read",
    }
    assert expected[what] in message
    assert len(message.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix sockets on Windows")
def test_a_unix_socket_is_for_its_owner(place: Place, service: StartService) -> None:
    """On a Unix socket no token is needed: its permissions keep others out. It is gone after the end."""
    config = place.config(forward("it", service(echo)), partition=None)
    path = place.directory / "admin.sock"
    config.write_text(
        f'[admin]\nlisten = "unix://{path}"\n' + config.read_text(encoding="utf-8"), encoding="utf-8"
    )
    bridge = place.bridge_of(config)
    assert path.stat().st_mode & 0o777 == 0o600
    done = hvbridge("reload", config)
    assert done.returncode == 0, done.stderr
    assert b"no change" in done.stdout
    status = hvbridge("status", config, "--json")
    assert json.loads(status.stdout)
    assert bridge.stop() == 0
    assert not path.exists()


def test_open_event_streams_do_not_hold_up_the_end(place: Place, service: StartService) -> None:
    """A reader of events that never reads does not keep the bridge from draining in time."""
    admin = Admin(place, forward("it", service(echo)))
    with socket.create_connection(("127.0.0.1", admin.port), timeout=PATIENCE) as reader:
        reader.sendall(
            f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert b"200" in reader.recv(100)
        assert admin.bridge.stop() == 0
    assert not _listens(admin.port)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
