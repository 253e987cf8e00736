"""One peer, forwarding: its server, its process, and the address that clients use. Proved by a byte each way."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import load
from bench.addresses import Address, free_port
from bench.peers import Peer, Setting
from bench.processes import Child

READY_SECONDS = 15.0
POLL_SECONDS = 0.001


class TargetError(Exception):
    """A peer did not come up; the message has what it said."""


@dataclass(frozen=True)
class Placement:
    """Which CPUs the three parties keep to; empty: anywhere. Why: README.md, "Pinning"."""

    proxy: frozenset[int] = frozenset()
    client: frozenset[int] = frozenset()
    server: frozenset[int] = frozenset()
    bulk_server: frozenset[int] = frozenset()


@dataclass
class Target:
    """What a measure gets. `child` is None for `direct`. `ready_seconds`: from start to the first byte through."""

    binary: Path
    address: str
    upstream: Address
    server: load.Server
    child: Child | None
    placement: Placement
    idle_that_fit: int = 0
    ready_seconds: float = 0.0

    def load(self, mode: str, count: int, seconds: float) -> dict[str, float]:
        bulk = mode in ("up", "down")
        self.server.pin(self.placement.bulk_server if bulk else self.placement.server)
        return load.run(self.binary, mode, self.address, count, seconds, self.placement.client)

    def cpu_seconds(self) -> float:
        return self.child.cpu_seconds() if self.child else 0.0


def first_byte(port: int) -> bool:
    """Whether a byte comes back through 127.0.0.1:port now."""
    with socket.socket() as client:
        client.settimeout(READY_SECONDS)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(b"P")
            return client.recv(1) == b"P"
        except OSError:
            return False


def listener(port: int) -> socket.socket:
    """A listening socket for a peer that inherits it, as a service manager would hand it over."""
    sock = socket.create_server(("127.0.0.1", port), backlog=4096)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def started(peer: Peer, kind: str, binary: Path, placement: Placement) -> Iterator[Target]:
    """Start a server of `kind` and the peer in front of it; end both, and remove their files, on the way out."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        where = str(directory / "server.sock") if kind == "unix" else str(free_port())
        upstream = Address(kind, where)
        server = stack.enter_context(load.Server(binary, upstream, placement.server))
        program = peer.find()
        if peer.command is None or program is None:
            yield Target(binary, str(upstream), upstream, server, None, placement)
            return
        port = free_port()
        log = stack.enter_context((directory / "log").open("w+b"))
        setting = Setting(program, port, upstream, directory)
        begin = time.monotonic()
        with listener(port) if peer.inherits_listener else Path(os.devnull).open() as stdin:
            child = stack.enter_context(
                Child(
                    peer.command(setting), stdin=stdin.fileno(), stdout=log, stderr=log, cpus=placement.proxy
                )
            )
        while not first_byte(port):
            if child.process.poll() is not None or time.monotonic() > begin + READY_SECONDS:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise TargetError(f"{peer.name} did not start: {said[-400:] or 'no word from it'}")
            time.sleep(POLL_SECONDS)
        ready = time.monotonic() - begin
        yield Target(
            binary, f"tcp:127.0.0.1:{port}", upstream, server, child, placement, peer.idle_that_fit(), ready
        )
