"""The endpoint over real sockets: its clients, those that mean harm, and its end."""

import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hvbridge.address.endpoint import parse_endpoint
from hvbridge.admin import http, server
from hvbridge.admin.stats import MAX_SUBSCRIBERS, Statistics
from hvbridge.proxy.control import ReloadError
from hvbridge.proxy.events import ConnectionClosed
from hvbridge.proxy.server import close_all
from hvbridge.transport.errors import Cause, ListenError

from .support import (
    PATIENCE,
    TCP,
    TOKEN,
    Bridge,
    ask,
    connect,
    connection,
    parse_events,
    record,
    serving,
    until,
)

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="CPython has no Unix sockets on Windows")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

EVENTS = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=["tcp", pytest.param("unix", marks=needs_unix)])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to listen, on each kind of socket."""
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/admin.sock"


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Call what blocks, for a while."""
    with trio.fail_after(PATIENCE):
        return await trio.to_thread.run_sync(partial(function, *arguments))


# Requests.


async def test_it_serves(listen: str) -> None:
    """It tells what it is bound to, and answers there."""
    async with serving(listen) as where:
        reply = await ask(where, "GET", "/api/v1/forwards")
        assert [forward["name"] for forward in reply.json] == ["ssh", "rdp"]
        assert "server" not in reply.headers
    assert where.startswith(listen.removesuffix("0"))
    assert not where.endswith(":0")


async def test_every_address_of_a_name_is_bound() -> None:
    """A name's every address is listened on, on one port."""
    endpoint = parse_endpoint("tcp://localhost:0")
    listeners = await server.bind(endpoint)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, Bridge(), Statistics(), endpoint, listeners, None)
        bound = [listener.where for listener in listeners]
        assert len({where.rpartition(":")[2] for where in bound}) == 1
        for where in bound:
            assert (await ask(where, "GET", "/livez")).status == 200
        nursery.cancel_scope.cancel()
    close_all(listeners)


async def test_a_cancellation_at_the_start_ends_it_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """An endpoint that is cancelled before it has begun to serve does not wait for connections."""
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, Bridge(), Statistics(), TCP, [], None)
            nursery.cancel_scope.cancel()


async def test_one_connection_serves_many_requests(listen: str) -> None:
    """A connection is kept, also after an answer without a body, and after an error."""

    def talk(where: str) -> list[int]:
        with connect(where) as sock, sock.makefile("rb") as answers:
            statuses = []
            for request in (b"HEAD /livez", b"GET /livez", b"GET /nothing", b"PUT /livez", b"GET /readyz"):
                sock.sendall(request + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                statuses.append(int(answers.readline().split()[1]))
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if not request.startswith(b"HEAD"):
                    answers.read(length)
            return statuses

    async with serving(listen) as where:
        refused = 403 if where.startswith("tcp") else 405
        assert await in_thread(talk, where) == [200, 200, 404, refused, 200]


async def test_changes_over_both_kinds_of_sockets(listen: str) -> None:
    """Without a token, a Unix socket may change things, and TCP may not; and over TCP with the token."""
    bridge = Bridge()
    async with serving(listen, bridge=bridge) as where:
        reply = await ask(where, "DELETE", "/api/v1/connections/7")
        assert reply.status == (403 if where.startswith("tcp") else 204)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with serving(listen, TOKEN, bridge) as where:
        assert (await ask(where, "POST", "/api/v1/reload")).status == 401
        assert (await ask(where, "POST", "/api/v1/reload", bearer)).status == 200
    assert bridge.done[-1] == "reload"


async def test_a_slow_reload_keeps_nobody_waiting() -> None:
    """While a reload takes its time, others are answered; what it says comes when it is done."""
    proceed = trio.Event()

    class Slow(Bridge):
        async def reload(self) -> str:
            await proceed.wait()
            raise ReloadError(["no"])

    replies = []
    async with serving(token=TOKEN, bridge=Slow()) as where:
        bearer = {"Authorization": f"Bearer {TOKEN}"}

        async def reload() -> None:
            replies.append(await ask(where, "POST", "/api/v1/reload", bearer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            assert (await ask(where, "GET", "/livez")).status == 200
            proceed.set()
    assert replies[0].json == {"faults": ["no"]}


# curl.


def curl(where: str, target: str, *arguments: str) -> tuple[int, str]:
    """Ask as the how-to shows it; return the status and the body."""
    scheme, _, address = where.partition("://")
    to = ["--unix-socket", address] if scheme == "unix" else []
    url = f"http://localhost{target}" if scheme == "unix" else f"http://{address}{target}"
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "8", "-w", "\n%{http_code}", *to, *arguments, url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 28), done.stderr  # 28: its own time-out, on a stream
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@needs_curl
async def test_curl(listen: str) -> None:
    """curl looks, sends the token, and is refused without it."""
    async with serving(listen, TOKEN) as where:
        assert await in_thread(curl, where, "/livez") == (200, "ok")
        assert (await in_thread(curl, where, "/api/v1/status"))[0] == 401
        bearer = ["-H", f"Authorization: Bearer {TOKEN}"]
        status, body = await in_thread(curl, where, "/api/v1/forwards", *bearer)
        assert (status, json.loads(body)[0]["name"]) == (200, "ssh")
        assert await in_thread(curl, where, "/api/v1/connections/7", *bearer, "-X", "DELETE") == (204, "")
        assert (await in_thread(curl, where, "/", "-I"))[0] == 200


@needs_curl
async def test_curl_as_an_attackers_browser(listen: str) -> None:
    """What a browser would send from an attacker's page is refused, and no header lets the page read it."""
    bridge = Bridge()
    async with serving(listen, bridge=bridge) as where:
        rebound = ["-H", "Host: evil.example"]
        assert (await in_thread(curl, where, "/api/v1/status", *rebound))[0] == 421
        foreign = ["-X", "POST", "-H", "Origin: https://evil.example", "-H", "Sec-Fetch-Site: cross-site"]
        assert (await in_thread(curl, where, "/api/v1/reload", *foreign))[0] == 403
        _, head = await in_thread(curl, where, "/api/v1/status", "-H", "Origin: https://evil.example", "-i")
        assert "access-control" not in head.lower()
    assert bridge.done == []


@needs_curl
async def test_http2_is_refused(listen: str) -> None:
    """HTTP/2 by prior knowledge gets no answer, and an upgrade to it is ignored: there is one way past the checks."""

    def ask_http2(where: str) -> int:
        try:
            return curl(where, "/livez", "--http2-prior-knowledge")[0]
        except AssertionError:  # curl did not understand the refusal
            return 0

    async with serving(listen) as where:
        assert await in_thread(ask_http2, where) != 200
        assert await in_thread(curl, where, "/livez", "--http2") == (200, "ok")
        _, head = await in_thread(curl, where, "/livez", "--http2", "-i")
        assert head.startswith("HTTP/1.1 200")


@needs_curl
async def test_curl_follows_events(listen: str) -> None:
    """curl sees snapshots and closings as they come."""
    stats = Statistics()
    async with serving(listen, stats=stats) as where, trio.open_nursery() as nursery:

        async def close_one() -> None:
            await until(lambda: stats.subscribers)
            stats.on_event(ConnectionClosed(record()))

        nursery.start_soon(close_one)
        _, body = await in_thread(curl, where, "/api/v1/events", "-N", "--max-time", "1.5")
        kinds = [kind for kind, _ in parse_events(body.encode())]
        assert {"snapshot", "closed"} <= set(kinds)


# The Unix socket.


@needs_unix
async def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    """The socket has mode 0600 whatever the umask, and is removed at the end."""
    path = tmp_path / "admin.sock"
    before = os.umask(0)
    try:
        async with serving(f"unix://{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


@needs_unix
async def test_the_socket_is_private_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is made with its mode, so that no chmod can be led to another file, and nobody is let in before."""
    path = tmp_path / "admin.sock"
    monkeypatch.setattr(Path, "chmod", lambda *_: pytest.fail("a chmod follows links"))
    before = os.umask(0)
    try:
        async with serving(f"unix://{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        assert os.umask(before) == 0


@needs_unix
async def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    """The socket file of a bridge that was killed does not keep the next one from starting."""
    if sys.platform == "win32":
        raise NotImplementedError
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(f"unix://{path}") as where:
        assert (await ask(where, "GET", "/livez")).status == 200


# Failures.


async def failure(listen: str) -> ListenError:
    with pytest.raises(ListenError) as raised:
        await server.bind(parse_endpoint(listen))
    return raised.value


async def test_a_port_in_use_is_told_in_a_sentence() -> None:
    """An address that is in use is told as for a forward's listener, to the one who starts the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        error = await failure(listen)
    assert error.cause is Cause.IN_USE
    assert str(error).startswith(f"cannot listen on {listen}: the address is in use")


@needs_unix
async def test_a_unix_socket_in_use_is_told_in_a_sentence(tmp_path: Path) -> None:
    """A socket on which another process listens is left alone, and a missing directory is named."""
    path = tmp_path / "admin.sock"
    async with serving(f"unix://{path}") as where:
        assert (await failure(where)).cause is Cause.IN_USE
        assert (await ask(where, "GET", "/livez")).status == 200
    assert "create the directory first" in str(await failure(f"unix://{tmp_path}/none/admin.sock"))


async def test_a_client_that_talks_nonsense_harms_nobody(
    listen: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no HTTP, too long, half, or reset, ends that connection alone, and not a word is printed."""

    def talk(where: str) -> list[bytes]:
        answers = []
        for nonsense in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
            b"SSH-2.0-OpenSSH_9.7\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        ):
            with connect(where) as sock:
                try:
                    sock.sendall(nonsense)
                    answers.append(sock.recv(1 << 16))
                except ConnectionError:
                    answers.append(b"")
        return answers

    async with serving(listen) as where:
        answers = await in_thread(talk, where)
        assert not [answer for answer in answers if b" 200 " in answer]
        with connect(where) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHo")
            assert (await ask(where, "GET", "/livez")).status == 200
    assert capfd.readouterr() == ("", "")


async def test_web_sockets_are_refused(listen: str) -> None:
    """A WebSocket is not opened, so that nothing is asked over one past the checks."""

    def talk(where: str) -> bytes:
        with connect(where) as sock:
            sock.sendall(
                b"GET /api/v1/events HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            return sock.recv(1 << 16)

    async with serving(listen) as where:
        assert b" 421 " in await in_thread(talk, where)


async def test_a_fault_is_told_and_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bug that a request meets ends that request, is logged once as all else is, and printed nowhere."""

    class Broken(Bridge):
        def is_ready(self) -> bool:
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO):
        async with serving(bridge=Broken()) as where:
            assert (await ask(where, "GET", "/readyz")).status == 500
            assert (await ask(where, "GET", "/livez")).status == 200
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]
    assert capfd.readouterr() == ("", "")


# Many, and slow ones.


def crowd() -> Bridge:
    """A bridge whose snapshots fill socket buffers in no time."""
    return Bridge(live=[connection(number, peer="x" * 5000) for number in range(500)])


def read_events(where: str, seen: threading.Event) -> bytes:
    """Read events to the end of the stream."""
    with connect(where) as sock:
        sock.sendall(EVENTS)
        data = b""
        while chunk := sock.recv(1 << 16):
            data += chunk
            seen.set()
        return data


async def test_the_end_ends_streams_cleanly(listen: str) -> None:
    """A stream of events ends when the endpoint does, so that its reader knows, and at once."""
    seen = threading.Event()
    ended = []
    async with trio.open_nursery() as readers:
        async with serving(listen) as where:

            async def read() -> None:
                ended.append(await in_thread(read_events, where, seen))

            readers.start_soon(read)
            await in_thread(seen.wait, PATIENCE)
            before = trio.current_time()
        assert trio.current_time() - before < 0.9  # the grace is for those that do not read
    assert b"event: snapshot" in ended[0]
    assert ended[0].endswith(b"\r\n0\r\n\r\n")


async def test_readers_that_never_read_do_not_hold_up_the_end(listen: str) -> None:
    """Streams whose readers have stopped reading, a response that nobody takes, and half a request: it ends soon."""
    async with serving(listen, bridge=crowd()) as where:
        socks = [connect(where) for _ in range(MAX_SUBSCRIBERS + 20)]
        for sock in socks[:MAX_SUBSCRIBERS]:
            sock.sendall(EVENTS)
        for sock in socks[MAX_SUBSCRIBERS:-5]:
            sock.sendall(b"GET /api/v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in socks[-5:]:
            sock.sendall(b"GET / HT")
        await trio.sleep(1.5)  # real time, in which what nobody reads fills the buffers
        assert (await ask(where, "GET", "/livez")).status == 200
        before = trio.current_time()
    assert trio.current_time() - before < server.GRACE + 1
    for sock in socks:
        sock.close()


async def test_a_reader_that_takes_nothing_is_cut(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the place of a reader that takes nothing is free again."""
    monkeypatch.setattr(http, "SEND_TIMEOUT", 0.2)
    stats = Statistics()
    async with serving(listen, bridge=crowd(), stats=stats) as where:
        with connect(where) as sock:
            sock.sendall(EVENTS)
            await until(lambda: stats.subscribers)
            await until(lambda: not stats.subscribers)


def is_closed(sock: socket.socket) -> bool:
    """Wait for what comes; say whether it is the end."""
    try:
        return sock.recv(1000) == b""
    except ConnectionError:
        return True


async def test_whoever_comes_gets_an_answer(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the oldest idle connection gives way, so that nobody can lock the others out."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    async with serving(listen) as where:
        socks = [connect(where) for _ in range(4)]
        for sock in socks:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await in_thread(sock.recv, 1000)
        with trio.fail_after(2):  # less than an idle connection is kept for
            for _ in range(3):
                assert (await ask(where, "GET", "/livez")).status == 200
        assert await in_thread(is_closed, socks[0])
        for sock in socks:
            sock.close()


async def test_half_a_request_is_cut(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not send its request to the end does not keep its connection."""
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.2)
    async with serving(listen) as where:
        for part in (
            b"",
            b"GET /livez HT",
            b"POST /api/v1/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
        ):
            with connect(where) as sock:
                sock.sendall(part)
                assert await in_thread(sock.recv, 1000) == b""


async def test_a_reader_that_leaves_is_forgotten(listen: str) -> None:
    """A reader that closes, or resets, its connection is no subscriber any more, and nobody is told of an error."""
    stats = Statistics()
    async with serving(listen, stats=stats) as where:
        for _ in range(3):
            with connect(where) as sock:
                sock.sendall(EVENTS)
                await in_thread(sock.recv, 1000)
                assert stats.subscribers == 1
            await until(lambda: not stats.subscribers)
