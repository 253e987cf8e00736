"""A stand-in for a bridge's admin endpoint, which answers what a test lets it, over TCP or a Unix socket."""

import http.server
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

GIB = 1 << 30

if sys.platform != "win32":

    class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        """Serves each connection in a thread."""

        daemon_threads = True

else:
    UnixServer: Any = None


def forward(name: str, **changed: Any) -> dict[str, Any]:
    """A forward as the API has it."""
    return {
        "name": name,
        "listen": [f"tcp://127.0.0.1:{2000 + len(name)}"],
        "connect": f"hyperv://dev-box/{name}",
        "state": "listening",
        "upstream": "up",
        "upstream_cause": "",
        "health": "",
        "connections": 2,
        "max_connections": 1024,
        "accepted": 12,
        "refused": 3,
        "dial_failed": 1,
        "client_to_upstream": 2048,
        "upstream_to_client": 3 * GIB,
    } | changed


def connection(number: int, **changed: Any) -> dict[str, Any]:
    """A live connection as the API has it."""
    return {
        "id": number,
        "forward": "ssh",
        "peer": f"127.0.0.1:{50000 + number}",
        "upstream": "hyperv://dev-box/ssh",
        "state": "open",
        "seconds": 75.0,
        "client_to_upstream": 1000,
        "upstream_to_client": 2000,
    } | changed


def closing(number: int, **changed: Any) -> dict[str, Any]:
    """A closed connection as the API has it."""
    return {
        "id": number,
        "forward": "ssh",
        "peer": f"127.0.0.1:{50000 + number}",
        "upstream": "hyperv://dev-box/ssh",
        "closed_at": "2026-11-25T12:00:00+00:00",
        "seconds": 1.5,
        "dial_seconds": None,
        "client_to_upstream": 0,
        "upstream_to_client": 0,
        "reason": "eof",
        "detail": "",
    } | changed


class FakeAdmin:
    """Answers by the HTTP API of the admin endpoint; ``answers`` may be changed at any time."""

    def __init__(self) -> None:
        self.token = ""
        """The token that it wants, if any."""
        self.requests: list[tuple[str, str]] = []
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/api/v1/status"): (
                HTTPStatus.OK,
                {
                    "version": "0.1.0",
                    "started": "2026-11-25T10:00:00+00:00",
                    "uptime_seconds": 7384.2,
                    "ready": True,
                },
            ),
            ("GET", "/readyz"): (HTTPStatus.OK, {"ready": True, "forwards": {}}),
            ("GET", "/api/v1/forwards"): (HTTPStatus.OK, [forward("ssh"), forward("web", connections=0)]),
            ("GET", "/api/v1/connections"): (HTTPStatus.OK, [connection(1), connection(2)]),
            ("GET", "/api/v1/closings"): (HTTPStatus.OK, [closing(9), closing(8)]),
            ("POST", "/api/v1/reload"): (HTTPStatus.OK, {"changed": "nothing has changed"}),
        }

    def put(self, path: str, body: Any, status: int = HTTPStatus.OK, method: str = "GET") -> None:
        """Answer ``body``, as JSON unless it is bytes, to what asks for ``path``."""
        self.answers[method, path] = status, body

    def change(self, path: str, **changed: Any) -> None:
        """Change some fields of an answer that is an object."""
        status, body = self.answers["GET", path]
        self.answers["GET", path] = status, body | changed

    @contextmanager
    def on_tcp(self) -> Iterator[str]:
        """Serve on a port of this machine, and give the endpoint."""
        with _serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())) as server:
            yield f"tcp://127.0.0.1:{server.server_address[1]}"

    @contextmanager
    def on_unix(self, path: Path) -> Iterator[str]:
        """Serve on a Unix socket, and give the endpoint."""
        with _serving(UnixServer(str(path), self._handler())):
            yield f"unix://{path}"

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        admin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*admin.answer(self.command, self.path, self.headers.get("Authorization", "")))

            do_POST = do_GET

            def address_string(self) -> str:
                return "client"

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, status: int, body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, Any]:
        self.requests.append((method, path))
        if self.token and authorization != f"Bearer {self.token}":
            return HTTPStatus.UNAUTHORIZED, {"error": "a token is needed"}
        return self.answers.get((method, path), (HTTPStatus.NOT_FOUND, {"detail": "Not Found"}))


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
