"""systemd is told how a service fares, over a real notification socket, and its listening sockets are taken over."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hvbridge.service.sd_notify import Notifier, watch, watchdog_seconds
from hvbridge.transport.socket_activation import systemd_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is there on Linux only")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def notifier_of(sock: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": sock.getsockname()}, on_failure=pytest.fail)


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
        Notifier({"NOTIFY_SOCKET": name}, on_failure=pytest.fail).ready()
        assert sock.recv(4096) == b"READY=1"


def test_nothing_happens_without_systemd() -> None:
    """A process that systemd did not start says nothing, and nothing fails."""
    notifier = Notifier({}, on_failure=pytest.fail)
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


# Sockets.

_TAKE = """
import os, socket, sys
from hvbridge.transport.socket_activation import systemd_sockets
taken = systemd_sockets()
for name, sockets in taken.items():
    for sock in sockets:
        print(name, sock.fileno(), sock.family.name, os.get_inheritable(sock.fileno()))
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), systemd_sockets())
"""


def activate(program: str, *descriptors: int, **variables: str) -> list[str]:
    """Run a Python program that inherits ``descriptors`` from 3 on, as systemd starts one; return what it prints."""
    # The shell has the pid that the program will have, and lower numbers are free for the descriptors there only.
    moves = " ".join(f"{3 + index}<&{source}" for index, source in enumerate(descriptors))
    return subprocess.run(
        [
            "bash",
            "-c",
            f'export LISTEN_PID=${{FAKE_PID:-$$}}; exec "$0" -c "$1" {moves}',
            sys.executable,
            program,
        ],
        pass_fds=descriptors,
        env=os.environ | {"LISTEN_FDS": str(len(descriptors))} | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@pytest.fixture
def high() -> Iterator[Callable[[Any], int]]:
    """Duplicates descriptors to numbers above those that `activate` fills."""
    made: list[int] = []

    def duplicate(file: Any) -> int:
        import fcntl

        made.append(fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 20))
        return made[-1]

    yield duplicate
    for descriptor in made:
        os.close(descriptor)


def test_sockets_come_by_name(high: Callable[[Any], int]) -> None:
    """Those of one name are together; none is inherited further, and the variables are gone."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        printed = activate(_TAKE, high(one), high(other), high(one), LISTEN_FDNAMES="web:ssh:web")
    assert printed == [
        "web 3 AF_INET False",
        "web 5 AF_INET False",
        "ssh 4 AF_INET False",
        "[] {}",
    ]


def test_sockets_without_names_are_unknown(high: Callable[[Any], int]) -> None:
    """A manager that passes no names leaves them called as libsystemd calls them."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert activate(_TAKE, high(one))[0] == "unknown 3 AF_INET False"


def test_only_listening_streams_are_taken(high: Callable[[Any], int]) -> None:
    """A datagram socket, one that listens for packets, a connected one and what is no socket at all are passed over."""
    one, other = socket.socketpair()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.create_server(("127.0.0.1", 0)) as good,
        one,
        other,
        Path(os.devnull).open("rb") as file,
    ):
        packets.bind("")
        packets.listen()
        descriptors = [high(passed) for passed in (datagrams, packets, one, file, good)]
        printed = activate(_TAKE, *descriptors, LISTEN_FDNAMES="a:b:c:d:e")
    assert printed == ["e 7 AF_INET False", "[] {}"]


def test_sockets_of_another_process_are_left_alone(high: Callable[[Any], int]) -> None:
    """A child that inherited the variables does not take what was passed to its parent."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert activate(_TAKE, high(one), FAKE_PID="1", LISTEN_FDNAMES="web") == ["[] {}"]


def test_no_sockets_without_systemd() -> None:
    """A process that was started otherwise has none."""
    assert systemd_sockets({}) == {}
