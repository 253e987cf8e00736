"""HTTP/1.1 on one connection: h11 reads and writes it, and an ASGI application answers each request.

Nothing a peer does holds a connection for longer than a deadline: for a request to come whole, for an answer to be
taken, and for an idle connection. HTTP/2 and upgrades are refused, for each would be a second way past the checks.
"""

import json
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message

from hvbridge.transport.stream import SocketStream

IDLE_TIMEOUT = 5.0
"""Seconds for the next request to begin and be complete: a client that keeps a connection sends it at once."""
SEND_TIMEOUT = 30.0
"""Seconds for some of an answer to be taken: a reader that takes nothing for so long is gone, or means harm."""
_FAREWELL = 1.0
"""Seconds to read on after the last answer, which a close with unread bytes might destroy."""

_MAX_HEAD = 16 * 1024
_MAX_BODY = 64 * 1024
"""Bytes of a request. No route takes a body."""
_CHUNK = 64 * 1024
"""Bytes of an answer that are sent under one deadline, and of a read."""


class PeerGoneError(Exception):
    """The peer has left, or takes no answer; nothing that anybody need hear of."""


def is_peer_gone(error: Exception) -> bool:
    """Whether ``error``, or all of a group, is a `PeerGoneError`."""
    if isinstance(error, ExceptionGroup):
        return error.split(PeerGoneError)[1] is None
    return isinstance(error, PeerGoneError)


class HttpConnection:
    """One connection, which `serve` closes."""

    def __init__(self, stream: SocketStream, app: ASGIApp) -> None:
        self.is_idle = True
        """Whether no complete request is being answered."""
        self._stream = stream
        self._app = app
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._waiting = trio.CancelScope()
        self._is_ending = False

    @property
    def source(self) -> object:
        """Where the peer is: its address, or nothing that could be told apart."""
        return self._stream.client_id

    def close_when_idle(self) -> None:
        """Close the connection now, or once the present request has been answered."""
        self._is_ending = True
        self._waiting.cancel()

    async def serve(self) -> None:
        """Serve requests until the peer leaves, or is too slow. Raises whatever the application does."""
        try:
            while (request := await self._next_request()) is not None:
                self.is_idle = False
                await _Exchange(self._http, self._stream, request).run(self._app)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
                self.is_idle = True
            await self._say_farewell()
        except (PeerGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._stream.abort()

    async def _next_request(self) -> h11.Request | None:
        """Return the next request, whose body is empty or read; None when there is none."""
        if self._is_ending:
            return None
        with trio.move_on_after(IDLE_TIMEOUT) as self._waiting:
            try:
                request = await next_event(self._http, self._stream)
                if not isinstance(request, h11.Request):
                    return None
                if request.http_version not in (b"1.0", b"1.1"):
                    raise h11.RemoteProtocolError("only HTTP/1.1 is spoken here", 505)
                await self._read_body()
            except h11.RemoteProtocolError as error:
                await self._refuse(error)
                return None
            return request
        return None

    async def _read_body(self) -> None:
        size = 0
        while not isinstance(event := await next_event(self._http, self._stream), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise PeerGoneError
            size += len(event.data)
            if size > _MAX_BODY:
                raise h11.RemoteProtocolError("the request is too large", 413)

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = json.dumps({"error": str(error)}).encode("ascii")
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=error.error_status_hint, headers=headers)
        await send(self._http, self._stream, response, h11.Data(data=body), h11.EndOfMessage())
        await self._say_farewell()

    async def _say_farewell(self) -> None:
        """Tell that no more comes, and let the last answer arrive."""
        with trio.move_on_after(_FAREWELL):
            await self._stream.send_eof()
            for _ in range(_MAX_BODY // _CHUNK + 1):
                if not await self._stream.receive_some(_CHUNK):
                    break
            await self._stream.aclose()


class _Exchange:
    """One request and its answer, as ASGI has them."""

    def __init__(self, http: h11.Connection, stream: SocketStream, request: h11.Request) -> None:
        self._http = http
        self._stream = stream
        self._request = request
        self._was_received = False
        self._start: Message = {}

    async def run(self, app: ASGIApp) -> None:
        await app(self._scope(), self._receive, self._send)

    def _scope(self) -> dict[str, Any]:
        path, _, query = self._request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": self._request.http_version.decode("ascii"),
            "method": self._request.method.decode("ascii").upper(),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(self._request.headers),
        }

    async def _receive(self) -> Message:
        if not self._was_received:
            self._was_received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # Whatever comes now is for a later request, which nobody may send before the answer to this one has ended.
        try:
            early = await self._stream.receive_some(_CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            early = b""
        if early:
            self._http.receive_data(early)
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            events: list[h11.Event] = []
            if self._http.our_state is h11.SEND_RESPONSE:
                headers = [*self._start["headers"], (b"date", formatdate(usegmt=True).encode("ascii"))]
                events.append(h11.Response(status_code=self._start["status"], headers=headers))
            if (body := message.get("body", b"")) and self._request.method != b"HEAD":
                events.append(h11.Data(data=body))
            if not message.get("more_body", False):
                events.append(h11.EndOfMessage())
            await send(self._http, self._stream, *events)


async def next_event(http: h11.Connection, stream: SocketStream) -> object:
    """Return what h11 makes of the bytes that come next. Raises `h11.RemoteProtocolError`, trio's stream errors."""
    while (event := http.next_event()) is h11.NEED_DATA:
        if http.they_are_waiting_for_100_continue:
            await send(http, stream, h11.InformationalResponse(status_code=100, headers=[]))
        http.receive_data(await stream.receive_some(_CHUNK))
    return event


async def send(http: h11.Connection, stream: SocketStream, *events: h11.Event) -> None:
    """Send events, each `_CHUNK` bytes of them within `SEND_TIMEOUT`. Raises `PeerGoneError`."""
    data = b"".join(http.send(event) or b"" for event in events)
    for begin in range(0, len(data), _CHUNK):
        with trio.move_on_after(SEND_TIMEOUT) as scope:
            try:
                await stream.send_all(data[begin : begin + _CHUNK])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise PeerGoneError from error
        if scope.cancelled_caught:
            raise PeerGoneError
