"""`hvbridge status` and `reload`: what they print, and the sentence for each thing that can go wrong."""

import json
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from hvbridge.cli import admin_client
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from hvbridge.cli.reload import reload
from hvbridge.cli.status import status
from tests.cli.fake_admin import FakeAdmin, forward

FORWARD = '[[forward]]\nname = "ssh"\nlisten = "tcp://127.0.0.1:2222"\nconnect = "tcp://127.0.0.1:22"\n'
NO_CONFIG = Path("no-such.toml")

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix sockets on Windows")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token of this user's, and a terminal wide enough for any table."""
    monkeypatch.delenv(admin_client.TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def bridge() -> FakeAdmin:
    return FakeAdmin()


@pytest.fixture
def endpoint(bridge: FakeAdmin) -> Iterator[str]:
    with bridge.on_tcp() as endpoint:
        yield endpoint


def config(directory: Path, admin: str = "") -> Path:
    path = directory / "bridge.toml"
    path.write_text(admin + FORWARD, encoding="utf-8")
    return path


def ask(
    endpoint: str | None, path: Path = NO_CONFIG, *, token_file: Path | None = None, as_json: bool = False
) -> int:
    return status(path, admin=endpoint, token_file=token_file, as_json=as_json)


# What is printed.


def test_status_shows_every_forward_whole(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` prints the state of the bridge, and for each forward its upstream, its connections and totals."""
    bridge.put(
        "/api/v1/forwards",
        [
            forward("ssh"),
            forward(
                "web", state="draining", upstream="down", upstream_cause="the VM is not running", listen=[]
            ),
        ],
    )
    assert ask(endpoint) == EXIT_OK
    head, *rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert head.startswith("hvbridge 0.1.0 is ready, up 2h 3m, since ")
    assert rows == [
        "forward listens on connects to state upstream",
        "ssh tcp://127.0.0.1:2003 → hyperv://dev-box/ssh listening up",
        "web → hyperv://dev-box/web draining down: the VM is not running",
        "",
        "forward connections accepted refused dial failed to upstream to client",
        "ssh 2 of 1024 12 3 1 2.0 KiB 3.0 GiB",
        "web 2 of 1024 12 3 1 2.0 KiB 3.0 GiB",
    ]


def test_status_says_what_keeps_a_bridge_from_being_ready(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the bridge is not ready, `status` names the forwards that are not, and why."""
    bridge.change("/api/v1/status", ready=False)
    reasons = {"ssh": "timed out"}
    bridge.put("/readyz", {"ready": False, "forwards": reasons}, HTTPStatus.SERVICE_UNAVAILABLE)
    assert ask(endpoint) == EXIT_OK
    assert capsys.readouterr().out.splitlines()[1] == "ssh: timed out"


def test_status_prints_json_as_the_bridge_gave_it(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status --json` has every field of the bridge and of its forwards, those that it does not know, too."""
    bridge.put("/api/v1/forwards", [forward("ssh", colour="blue")])
    assert ask(endpoint, as_json=True) == EXIT_OK
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("forwards") == [forward("ssh", colour="blue")]
    assert shown == bridge.answers["GET", "/api/v1/status"][1]


def test_nothing_that_a_bridge_says_steers_the_terminal(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in an answer are shown by their names, and brackets are no markup."""
    bridge.put("/api/v1/forwards", [forward("ssh", upstream_cause="\x1b]0;x\x07[bold]")])
    assert ask(endpoint) == EXIT_OK
    assert r"up: \x1b]0;x\x07[bold]" in capsys.readouterr().out


def test_reload_prints_what_changed(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reload` asks the bridge once to read its config, and prints what it says."""
    bridge.put("/api/v1/reload", {"changed": "web: new\nssh: gone"}, method="POST")
    assert reload(NO_CONFIG, admin=endpoint, token_file=None) == EXIT_OK
    assert capsys.readouterr().out == "web: new\nssh: gone\n"
    assert bridge.requests == [("POST", "/api/v1/reload")]


def test_reload_prints_every_fault(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config that the bridge refuses gives one fault a line on standard error, and exit code 1."""
    faults = ["b.toml:1:1: one", "b.toml:2:1: two"]
    bridge.put("/api/v1/reload", {"faults": faults}, HTTPStatus.UNPROCESSABLE_ENTITY, method="POST")
    assert reload(NO_CONFIG, admin=endpoint, token_file=None) == EXIT_FAILURE
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", faults)


# Which endpoint, and which token.


def test_the_config_names_the_endpoint_and_its_token(
    bridge: FakeAdmin, endpoint: str, tmp_path: Path
) -> None:
    """Without --admin, the [admin] of the config is asked, with the token of its token_file."""
    bridge.token = "secret"
    (tmp_path / "admin.token").write_text("secret\nnot this\n")
    path = config(tmp_path, f'[admin]\nlisten = "{endpoint}"\ntoken_file = "admin.token"\n')
    assert ask(None, path) == EXIT_OK


def test_a_listener_on_every_address_is_asked_on_loopback(
    bridge: FakeAdmin, endpoint: str, tmp_path: Path
) -> None:
    """An [admin] that listens on 0.0.0.0 is reached on 127.0.0.1."""
    bridge.token = "secret"
    (tmp_path / "admin.token").write_text("secret")
    everywhere = endpoint.replace("127.0.0.1", "0.0.0.0")
    path = config(tmp_path, f'[admin]\nlisten = "{everywhere}"\ntoken_file = "admin.token"\n')
    assert ask(None, path) == EXIT_OK


def test_the_nearest_token_counts(
    bridge: FakeAdmin, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--token-file counts more than the environment, and the environment more than the config."""
    (tmp_path / "config.token").write_text("of-config")
    (tmp_path / "option.token").write_text("of-option")
    path = config(tmp_path, f'[admin]\nlisten = "{endpoint}"\ntoken_file = "config.token"\n')
    monkeypatch.setenv(admin_client.TOKEN_VARIABLE, "of-environment")
    bridge.token = "of-environment"
    assert ask(None, path) == EXIT_OK
    bridge.token = "of-option"
    assert ask(None, path, token_file=tmp_path / "option.token") == EXIT_OK


@posix_only
def test_asks_over_a_unix_socket(bridge: FakeAdmin, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Unix socket is asked as TCP is."""
    with bridge.on_unix(tmp_path_factory.mktemp("s") / "admin.sock") as endpoint:
        assert ask(endpoint) == EXIT_OK
    assert ("GET", "/api/v1/forwards") in bridge.requests


# What goes wrong.


def test_a_config_without_admin_is_told_how_to_add_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without [admin] nothing can be asked, and the message says what to write."""
    path = config(tmp_path)
    assert ask(None, path) == EXIT_USAGE
    assert capsys.readouterr().err == (
        f"hvbridge: {path} has no [admin] table, so its bridge cannot be queried; add [admin] with "
        'listen = "tcp://127.0.0.1:9180" and restart hvbridge, or pass --admin URL\n'
    )


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://127.0.0.1:9180", '"http://" is not a scheme'),
        (
            "hyperv://parent/ssh",
            "hyperv://parent/ssh is not an admin endpoint; write tcp://HOST:PORT or unix:///PATH",
        ),
        ("tcp://127.0.0.1:0", "cannot query tcp://127.0.0.1:0: port 0 is only for listeners"),
    ],
)
def test_what_cannot_be_asked_is_bad_usage(
    endpoint: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An --admin that is no endpoint, or none for this, is told with exit code 2."""
    assert ask(endpoint) == EXIT_USAGE
    assert told in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def sentence(endpoint: str, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """The one line that `status` says when it fails."""
    assert ask(endpoint, **options) == EXIT_FAILURE
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line.removeprefix("hvbridge: ")


def test_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing listens, the message asks whether hvbridge is running."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    assert sentence(endpoint, capsys) == (
        f"nothing is listening on {endpoint}; is hvbridge running, and did its config have [admin] when it started?"
    )


@posix_only
def test_no_socket_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Unix socket that does not exist is told like a port on which nothing listens."""
    endpoint = f"unix://{tmp_path}/no.sock"
    assert sentence(endpoint, capsys).startswith(f"nothing is listening on {endpoint}; is hvbridge running")


@posix_only
def test_the_socket_is_somebody_elses(
    bridge: FakeAdmin,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A socket that this user may not open is told with whom to be."""
    path = tmp_path_factory.mktemp("s") / "admin.sock"

    def denied(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    with bridge.on_unix(path) as endpoint:
        path.chmod(0)
        assert not stat.S_IMODE(path.stat().st_mode)
        monkeypatch.setattr(socket.socket, "connect", denied)  # root, which runs tests, may open anything
        assert sentence(endpoint, capsys) == (
            f"this user may not open {endpoint}; run this as the user that hvbridge runs as, or as root"
        )


def test_a_token_is_wanted(
    bridge: FakeAdmin, endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the token, or with a wrong one, the message says where it is found and how it is given."""
    bridge.token = "secret"
    assert sentence(endpoint, capsys) == (
        f"{endpoint} requires a token; pass the one in its [admin] token_file with --token-file FILE "
        "or HVBRIDGE_ADMIN_TOKEN"
    )
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    assert f"{endpoint} rejected this token; " in sentence(endpoint, capsys, token_file=wrong)


@pytest.mark.parametrize("content", [b"", b"\nsecret", b"\x1b[m", b"\xff\xfes\0"])
def test_a_file_without_a_token(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token file whose first line cannot be a token is told before anything is asked."""
    file = tmp_path / "token"
    file.write_bytes(content)
    assert ask("tcp://127.0.0.1:1", token_file=file) == EXIT_USAGE
    assert "does not contain a valid token; its first line" in capsys.readouterr().err


def test_a_token_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token file that is not there is named with the system's reason."""
    file = tmp_path / "none"
    assert ask("tcp://127.0.0.1:1", token_file=file) == EXIT_USAGE
    assert f'the token file "{file}" cannot be read (No such file or directory)' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status_code", "body"),
    [
        (HTTPStatus.OK, b"<html>"),
        (HTTPStatus.OK, {"version": "1"}),
        (HTTPStatus.NOT_FOUND, {"detail": "Not Found"}),
        (HTTPStatus.BAD_GATEWAY, b""),
    ],
)
def test_another_web_server(
    status_code: int, body: object, bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that answers otherwise than hvbridge does is told to be none."""
    bridge.put("/api/v1/status", body, status_code)
    assert sentence(endpoint, capsys) == (
        f"the service on {endpoint} is not the admin endpoint of this version of hvbridge; "
        "compare it with listen under [admin] in the config"
    )


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_another_service(
    greeting: bytes, peer: Callable[[bytes | None], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that does not speak HTTP, or closes at once, is no hvbridge either."""
    assert "is not the admin endpoint of this version" in sentence(peer(greeting), capsys)


def test_a_bridge_that_hangs(
    peer: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An endpoint that accepts and stays silent is given up after some seconds."""
    monkeypatch.setattr(admin_client, "TIMEOUT", 0.1)
    endpoint = peer(None)
    assert sentence(endpoint, capsys) == f"{endpoint} did not answer within 0.1 s"


def test_a_refusal_is_told_in_the_words_of_the_bridge(
    bridge: FakeAdmin, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the bridge does not let this user do, it says why itself."""
    bridge.put("/api/v1/reload", {"error": "set token_file"}, HTTPStatus.FORBIDDEN, method="POST")
    assert reload(NO_CONFIG, admin=endpoint, token_file=None) == EXIT_FAILURE
    assert capsys.readouterr().err == f"hvbridge: {endpoint} answered: set token_file\n"


@pytest.fixture
def peer() -> Iterator[Callable[[bytes | None], str]]:
    """Give a function that starts a TCP service which sends a greeting and closes, or, for None, stays silent."""
    threads, sockets = [], []

    def start(greeting: bytes | None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve() -> None:
            client, _ = listener.accept()
            with closing(client):
                if greeting is None:
                    client.recv(65536)
                    client.recv(65536)  # to the end
                else:
                    client.recv(65536)
                    client.sendall(greeting)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join()
    for listener in sockets:
        listener.close()
