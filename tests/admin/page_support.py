"""What the tests of the page need: the real endpoint in a thread, on a bridge that is invented, and a browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.admin.server import bind, serve
from hvbridge.admin.stats import Statistics
from hvbridge.proxy.control import ForwardState
from hvbridge.proxy.events import ConnectionClosed
from hvbridge.splice import Reason

from .support import Bridge, record

PATIENCE = 10.0
"""Seconds for what takes one: snapshots come every second."""


@dataclass
class LiveBridge(Bridge):
    """A bridge that does what the page asks for, so that the page can show it."""

    stats: Statistics = field(default_factory=Statistics)

    def forwards(self) -> list[ForwardState]:
        live = [state.forward for state in self.live]
        return [replace(state, connections=live.count(state.name)) for state in self.states]

    def change(self, name: str, **changed: Any) -> None:
        """Have a forward that is as before but for ``changed``."""
        self.states = [replace(state, **changed) if state.name == name else state for state in self.states]

    def move(self, connection_id: int, to_upstream: int, to_client: int) -> None:
        """Let bytes pass through a connection."""
        self.live = [
            replace(
                state,
                client_to_upstream=state.client_to_upstream + to_upstream,
                upstream_to_client=state.upstream_to_client + to_client,
            )
            if state.id == connection_id
            else state
            for state in self.live
        ]

    def end(self, connection_id: int, reason: Reason, detail: str = "") -> None:
        """Let a connection end."""
        (gone,) = (state for state in self.live if state.id == connection_id)
        self.live = [state for state in self.live if state.id != connection_id]
        up, down = gone.client_to_upstream, gone.upstream_to_client
        ended = record(
            gone.forward, reason, up=up, down=down, detail=detail, seconds=gone.seconds, id=gone.id
        )
        ended.peer = gone.peer
        self.stats.on_event(ConnectionClosed(ended))

    def close(self, connection_id: int) -> bool:
        is_there = super().close(connection_id)
        if is_there:
            self.end(connection_id, Reason.CLOSED_BY_ADMIN)
        return is_there

    def drain(self, forward: str) -> bool:
        self.change(forward, state="draining")
        return super().drain(forward)


class Server:
    """The endpoint of a bridge; its port stays the same when it is stopped and started again."""

    def __init__(self, bridge: LiveBridge, token: str | None) -> None:
        self.bridge = bridge
        self.token = token
        self._port = 0
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Return once it listens."""
        listens = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run, listens))
        self._thread.start()
        assert listens.wait(PATIENCE), "the endpoint has not started"

    def stop(self) -> None:
        """Return once it has ended."""
        if self._thread is not None:
            self._trio.run_sync_soon(self._scope.cancel)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the endpoint has not ended"
            self._thread = None

    async def _run(self, listens: threading.Event) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            listen = TcpEndpoint("127.0.0.1", self._port)
            (listener,) = await bind(listen)
            self._port = int(listener.where.rpartition(":")[2])
            nursery.start_soon(serve, self.bridge, self.bridge.stats, listen, [listener], self.token)
            listens.set()


@contextmanager
def browsing(chromium: str, chromedriver: str, profile: Path) -> Iterator[Chrome]:
    """A Chromium of one's own, which asks nobody for anything but what it is told to open."""
    options = ChromeOptions()
    options.binary_location = chromium
    for switch in (
        "headless",
        "no-sandbox",  # containers have none to give, and the page is ours
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options, Service(chromedriver))
    try:
        yield browser
    finally:
        browser.quit()
