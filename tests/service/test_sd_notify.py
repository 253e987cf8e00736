"""systemd is told how a service fares, over a real notification socket."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hvbridge.service.sd_notify import Notifier, watch, watchdog_seconds

if sys.platform != "linux":
    pytest.skip("systemd exists only on Linux", allow_module_level=True)
assert sys.platform == "linux"  # so that mypy leaves the rest alone elsewhere


def fail(error: OSError) -> None:
    pytest.fail(str(error))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def notifier_of(sock: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": sock.getsockname()}, on_failure=fail)


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (Notifier.ready, b"READY=1"),
        (Notifier.reloaded, b"READY=1"),
        (Notifier.stopping, b"STOPPING=1"),
        (Notifier.alive, b"WATCHDOG=1"),
        (lambda notifier: notifier.status("3 forwards\nEVIL=1 é"), "STATUS=3 forwards EVIL=1 é".encode()),
    ],
)
def test_each_state_is_one_datagram(
    manager: socket.socket, say: Callable[[Notifier], None], message: bytes
) -> None:
    """systemd reads assignments, one a line, and a status brings none of its own."""
    say(notifier_of(manager))
    assert manager.recv(4096) == message


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    """systemd compares the time with that of its request, on the monotonic clock in microseconds."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier_of(manager).reloading()
    reloading, clock = manager.recv(4096).decode().split("\n")
    assert reloading == "RELOADING=1"
    name, _, microseconds = clock.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    """NOTIFY_SOCKET=@name is a socket in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel picks an abstract name
        name = "@" + os.fsdecode(sock.getsockname()[1:])
        Notifier({"NOTIFY_SOCKET": name}, on_failure=fail).ready()
        assert sock.recv(4096) == b"READY=1"


def test_nothing_happens_without_systemd() -> None:
    """A process that systemd did not start says nothing, and nothing fails."""
    notifier = Notifier({}, on_failure=fail)
    notifier.ready()
    notifier.reloading()
    notifier.status("alone")


def test_a_manager_that_is_gone_is_a_failure_and_no_exception(tmp_path: Path) -> None:
    """What cannot be told is handed to who wants to know, and the service goes on."""
    failures: list[OSError] = []
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, failures.append).ready()
    assert [type(error) for error in failures] == [FileNotFoundError]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    environ: dict[str, str], seconds: float | None
) -> None:
    """The interval comes in microseconds, and only the process itself is watched, not a child of it."""
    assert watchdog_seconds(environ) == seconds


class Heartbeats(Notifier):
    """Notes when it was told that the loop runs."""

    def __init__(self) -> None:
        super().__init__({})
        self.at: list[float] = []

    def alive(self) -> None:
        self.at.append(trio.current_time())


async def test_the_heart_beats_twice_an_interval(autojump_clock: trio.testing.MockClock) -> None:
    """The first beat comes at once, and each next one after half the time that systemd allows."""
    heart, began = Heartbeats(), trio.current_time()
    with trio.move_on_after(35):
        await watch(heart, 20)
    assert [at - began for at in heart.at] == [0, 10, 20, 30]


async def test_no_heart_beats_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Where systemd does not watch, the task is done at once."""
    heart = Heartbeats()
    with trio.fail_after(1):
        await watch(heart, None)
    assert heart.at == []
