"""A bridge that the tests of the admin endpoint invent, and ways to ask about it."""

import http.client
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

from hvbridge.address.endpoint import Endpoint, TcpEndpoint, parse_endpoint
from hvbridge.admin.app import build_app
from hvbridge.admin.server import bind, serve
from hvbridge.admin.stats import Statistics
from hvbridge.proxy.control import ConnectionState, ForwardState, Losses, ReloadError
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.server import close_all
from hvbridge.splice import Reason, Transfer

TCP = TcpEndpoint("127.0.0.1", 9180)
UNIX = parse_endpoint("unix:///run/hvbridge/admin.sock")
TOKEN = "correct horse battery staple"
PATIENCE = 10.0
"""Seconds for what takes milliseconds."""

SSH = ForwardState(
    "ssh", ("tcp://127.0.0.1:2222",), "hyperv://dev-box/ssh", "listening", "up", "", "", 1, 1024
)
RDP = ForwardState(
    "rdp", ("tcp://127.0.0.1:3390",), "hyperv://dev-box/3389", "listening", "unknown", "", "", 0, 8
)


def connection(number: int, forward: str = "ssh", **changed: Any) -> ConnectionState:
    """A live connection."""
    state = ConnectionState(number, forward, "127.0.0.1:50000", "hyperv://dev-box/ssh", "open", 1.5, 100, 200)
    return replace(state, **changed)


@dataclass
class Bridge:
    """A control whose bridge is as the test says."""

    ready: bool = True
    states: list[ForwardState] = field(default_factory=lambda: [SSH, RDP])
    live: list[ConnectionState] = field(default_factory=lambda: [connection(7)])
    faults: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """What was asked of it, and done."""

    def is_ready(self) -> bool:
        return self.ready

    def forwards(self) -> list[ForwardState]:
        return self.states

    def connections(self, forward: str | None = None) -> list[ConnectionState]:
        return [state for state in self.live if forward in (None, state.forward)]

    def close(self, connection_id: int) -> bool:
        return self._do(f"close {connection_id}", connection_id in {state.id for state in self.live})

    def drain(self, forward: str) -> bool:
        return self._do(f"drain {forward}", forward in {state.name for state in self.states})

    def losses(self) -> Losses:
        return Losses(3, 1)

    async def reload(self) -> str:
        await trio.lowlevel.checkpoint()
        if self.faults:
            raise ReloadError(self.faults)
        self._do("reload", True)
        return "nothing"

    def _do(self, what: str, is_there: bool) -> bool:
        if is_there:
            self.done.append(what)
        return is_there


def record(forward: str = "ssh", reason: Reason = Reason.EOF, **changed: Any) -> ConnectionRecord:
    """What a bridge tells of a connection that has closed."""
    transfer = Transfer(changed.pop("up", 10), changed.pop("down", 20), reason, changed.pop("detail", ""))
    upstream = parse_endpoint("hyperv://any/ssh")
    return ConnectionRecord(
        forward, "127.0.0.1:50000", upstream, 0.0, **({"dial_seconds": 0.02} | changed), transfer=transfer
    )


@dataclass
class Reply:
    """A response, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@dataclass
class Admin:
    """An endpoint without sockets."""

    listen: Endpoint = TCP
    token: str | None = None
    bridge: Bridge = field(default_factory=Bridge)
    stats: Statistics = field(default_factory=Statistics)
    stopping: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.app = build_app(self.bridge, self.stats, self.listen, self.token, self.stopping)

    async def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request, and return the whole response."""
        exchange = Exchange(method, target, {"Host": "127.0.0.1:9180"} | dict(headers or {}))
        await self.app(exchange.scope, exchange.receive, exchange.send)
        return exchange.reply


class Exchange:
    """A request as a server hands it to an application, and what came back so far."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        path, _, query = target.partition("?")
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items() if value]
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
        }
        self.scope |= {"headers": raw, "root_path": "", "asgi": {"spec_version": "2.1", "version": "3.0"}}
        self.sent: list[Any] = []
        self.leave = trio.Event()
        """The client goes away."""
        self.may_send = trio.Event()
        """Cleared (replaced) by a test whose reader is slow."""
        self.may_send.set()
        self._has_begun = False

    async def receive(self) -> dict[str, object]:
        if not self._has_begun:
            self._has_begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        await self.may_send.wait()
        self.sent.append(message)

    @property
    def reply(self) -> Reply:
        start = self.sent[0]
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
        assert len(headers) == len(start["headers"])
        return Reply(start["status"], headers, b"".join(message["body"] for message in self.sent[1:]))

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The events that came back so far."""
        return parse_events(self.reply.body)


def parse_events(text: bytes) -> list[tuple[str, Any]]:
    """Read server-sent events; a last one that is not whole is left out."""
    events = []
    for frame in text.split(b"\n\n")[:-1]:
        kind, data = frame.decode().split("\n")
        events.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


@asynccontextmanager
async def serving(
    listen: Endpoint | str = "tcp://127.0.0.1:0",
    token: str | None = None,
    bridge: Bridge | None = None,
    stats: Statistics | None = None,
) -> AsyncIterator[str]:
    """A real endpoint; gives what it is bound to. It is cancelled at the end of the block."""
    endpoint = parse_endpoint(listen) if isinstance(listen, str) else listen
    listeners = await bind(endpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, bridge or Bridge(), stats or Statistics(), endpoint, listeners, token)
            yield listeners[0].where
            nursery.cancel_scope.cancel()
    finally:
        close_all(listeners)


async def until(happened: Callable[[], object]) -> None:
    """Wait, for a while, until something is so that nothing tells of."""
    with trio.fail_after(PATIENCE):
        while not happened():
            await trio.sleep(0.01)


def connect(where: str) -> socket.socket:
    """Connect to what an endpoint is bound to."""
    scheme, _, address = where.partition("://")
    if scheme == "unix":
        if sys.platform == "win32":
            raise NotImplementedError
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
    else:
        host, _, port = address.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)))
    sock.settimeout(PATIENCE)
    return sock


class _Client(http.client.HTTPConnection):
    def __init__(self, where: str) -> None:
        super().__init__("localhost")
        self._where = where

    def connect(self) -> None:
        self.sock = connect(self._where)


def _ask(where: str, method: str, target: str, headers: Mapping[str, str]) -> Reply:
    client = _Client(where)
    try:
        client.request(method, target, headers=dict(headers))
        response = client.getresponse()
        return Reply(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        client.close()


async def ask(where: str, method: str, target: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Send a request by the standard library's client, and return the whole response."""
    return await trio.to_thread.run_sync(partial(_ask, where, method, target, headers or {}))
