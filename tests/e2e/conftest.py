"""Fixtures: a place with an emulator, services in it, and a guest and a host bridge between."""

import hashlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .support import VM, Bridge, Place, Service, echo


@pytest.fixture(scope="session")
def shared_place() -> Iterator[Place]:
    """Give a place that lasts as long as the tests do; its path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hv-", ignore_cleanup_errors=True) as directory:
        place = Place(Path(directory))
        yield place
        place.close()


@pytest.fixture
def place() -> Iterator[Place]:
    """Give a place of its own to a test."""
    with tempfile.TemporaryDirectory(prefix="hv-", ignore_cleanup_errors=True) as directory:
        place = Place(Path(directory))
        yield place
        place.close()


@pytest.fixture(scope="session")
def shared_service() -> Iterator[Callable[[Callable[[socket.socket], None]], Service]]:
    """Give a function that starts a service for as long as the tests last."""
    yield from _services()


@pytest.fixture
def service() -> Iterator[Callable[[Callable[[socket.socket], None]], Service]]:
    """Give a function that starts a service for one test."""
    yield from _services()


@dataclass(frozen=True)
class Way:
    """The whole way: a host bridge, the emulator, a guest bridge in the VM, and services behind it.

    The host forwards to, and the guest listens on, ``echo`` (7) and ``digest`` (9), which answers at the end
    of its input with the SHA-256 of it, as text.
    """

    place: Place
    host: Bridge
    guest: Bridge

    def endpoint(self, port: int) -> str:
        """Return the endpoint of a service of the VM, as the host names it."""
        return f"hyperv://{VM}/{port}"


@pytest.fixture(scope="session")
def way(shared_place: Place, shared_service: Callable[[Callable[[socket.socket], None]], Service]) -> Way:
    """Give the whole way, which the tests share."""
    services = {"echo": (7, shared_service(echo)), "digest": (9, shared_service(_digest))}
    guest = shared_place.bridge(
        *(
            {"name": name, "listen": f"hyperv://parent/{port}", "connect": service.endpoint}
            for name, (port, service) in services.items()
        ),
        partition=VM,
    )
    host = shared_place.bridge(
        *(
            {"name": name, "listen": "tcp://127.0.0.1:0", "connect": f"hyperv://{VM}/{port}"}
            for name, (port, _) in services.items()
        )
    )
    return Way(shared_place, host, guest)


def _services() -> Iterator[Callable[[Callable[[socket.socket], None]], Service]]:
    started: list[Service] = []

    def start(handle: Callable[[socket.socket], None]) -> Service:
        started.append(Service(handle))
        return started[-1]

    yield start
    for service in started:
        service.close()


def _digest(sock: socket.socket) -> None:
    digest = hashlib.sha256()
    while data := sock.recv(65536):
        digest.update(data)
    sock.sendall(digest.hexdigest().encode())
