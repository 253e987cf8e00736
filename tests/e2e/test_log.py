"""A log that cannot be written, or that nobody reads, harms nothing: connections, signals and the exit code."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from .support import MODULE, PATIENCE, Place, Service, dial, echo, environment, talk, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses /dev/full, signals and pipes of POSIX")

CONNECTIONS = 600
"""Some 130 KiB of log lines: twice what a pipe holds."""


class Bridge:
    """A bridge whose standard error is what its test says."""

    def __init__(self, place: Place, service: Service, stderr: int | IO[bytes], shell: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        forward = {
            "name": "it",
            "listen": f"tcp://127.0.0.1:{self.port}",
            "connect": service.endpoint,
        }
        config = place.config(forward, partition=None)
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *MODULE, "run", str(config)],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=environment(),
        )
        wait_until(self._is_listening, "it listens")

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, "it ended at once"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def carries(self, connections: int) -> None:
        """Have so many connections carried, beside one that lasts."""
        with dial(self.port) as lasting:
            for _ in range(connections):
                with dial(self.port) as client:
                    assert talk(client) == b"hello"
            assert talk(lasting, b"still here") == b"still here"

    def ends(self) -> None:
        """End it by a signal, in good order and in time."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE / 5) == 0


@pytest.fixture
def start(
    place: Place, service: Callable[[Callable[[socket.socket], None]], Service]
) -> Iterator[Callable[..., Bridge]]:
    bridges: list[Bridge] = []

    def start(stderr: int | IO[bytes], shell: str = 'exec "$@"') -> Bridge:
        bridges.append(Bridge(place, service(echo), stderr, shell))
        return bridges[-1]

    yield start
    for bridge in bridges:
        bridge.process.kill()
        bridge.process.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk(start: Callable[..., Bridge]) -> None:
    """Where no line can be written, every connection is carried, and it ends as ever."""
    with Path("/dev/full").open("wb") as full:
        bridge = start(full)
        bridge.carries(20)
        bridge.ends()


def test_a_reader_that_has_left(start: Callable[..., Bridge]) -> None:
    """A pipe whose reader is gone, as after `| head -1`, is no reason to end."""
    reading, writing = os.pipe()
    os.close(reading)
    bridge = start(writing)
    os.close(writing)
    bridge.carries(20)
    bridge.ends()


def test_a_reader_that_stalls(start: Callable[..., Bridge]) -> None:
    """A pipe that nobody reads holds up neither connections nor the end; once it is read, the loss is told."""
    reading, writing = os.pipe()
    bridge = start(writing)
    os.close(writing)
    bridge.carries(CONNECTIONS)
    bridge.ends()
    os.close(reading)


def test_a_closed_standard_error(start: Callable[..., Bridge]) -> None:
    """Without a standard error nothing is written anywhere, least of all into a connection."""
    bridge = start(subprocess.DEVNULL, shell='exec "$@" 2>&-')
    bridge.carries(20)
    bridge.ends()
