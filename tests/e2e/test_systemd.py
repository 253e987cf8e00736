"""`hvbridge run` as systemd starts it: with sockets that systemd bound, and a socket to say how it fares."""

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import MODULE, PATIENCE, Place, Program, Service, dial, echo, environment, talk

if sys.platform != "linux":
    pytest.skip("systemd exists only on Linux", allow_module_level=True)

StartService = Callable[[Callable[[socket.socket], None]], Service]


def forward(listen: str, connect: object) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": "echo", "listen": listen, "connect": str(connect)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="no systemd-socket-activate here (package systemd)",
)
def test_the_first_connection_starts_it(place: Place, service: StartService) -> None:
    """systemd's own activator starts it at the first connection, over either of two sockets; neither is lost."""
    echoing = service(echo)
    config = place.config(forward("systemd://echo", echoing.endpoint))
    port, path = free_port(), place.directory / "echo.sock"
    variables = [option for name in ("PATH", "PYTHONPATH", "NO_COLOR") for option in ("-E", name)]
    program = place.program(
        *("systemd-socket-activate", "--listen", f"127.0.0.1:{port}", "--listen", path, "--fdname=echo:echo"),
        *(*variables, *MODULE, "run", config, "--log-format", "json"),
    )
    program.expect_line(f"Listening on {path}")
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(PATIENCE)
        first.connect(str(path))
        assert talk(first) == b"hello"
        with dial(port) as second:
            assert talk(second) == b"hello"
    ready = program.expect_line('"event": "ready"')
    assert f'"listen": ["tcp://127.0.0.1:{port}", "unix://{path}"]' in ready
    assert program.stop() == 0


def test_without_its_sockets_it_says_what_to_do(place: Place) -> None:
    """Started by hand, it ends with one line that names the endpoint and the unit to write."""
    program = place.program(*MODULE, "run", place.config(forward("systemd://echo", "tcp://127.0.0.1:1")))
    assert program.wait() == 1
    assert program.stderr == (
        'hvbridge: forward "echo": cannot listen on systemd://echo: systemd passed no listening stream socket '
        "of this name; write a .socket unit with ListenStream= and this name as FileDescriptorName=, and start "
        "hvbridge through it"
    )


class Manager:
    """Hears what a service says to systemd."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._sock.settimeout(PATIENCE)

    def be_patient(self, seconds: float) -> None:
        """Wait so long for a message."""
        self._sock.settimeout(seconds)

    def hear(self, *ignored: str) -> str:
        """Return the next message that is neither a status nor one of ``ignored``."""
        while (message := self._sock.recv(4096).decode()).startswith("STATUS=") or message in ignored:
            pass
        return message

    def hear_nothing(self, *ignored: str) -> bool:
        """Whether all that has arrived is to be ignored."""
        self._sock.setblocking(False)
        try:
            return not self.hear(*ignored)
        except BlockingIOError:
            return True
        finally:
            self._sock.settimeout(PATIENCE)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(place: Place) -> Iterator[Manager]:
    """Stand in for systemd."""
    manager = Manager(place.directory / "notify")
    yield manager
    manager.close()


def start(place: Place, manager: Manager, listen: str, **variables: str) -> tuple[Program, Path]:
    config = place.config(forward(listen, "tcp://127.0.0.1:1"))
    environ = environment(NOTIFY_SOCKET=manager.path, **variables)
    return place.program(*MODULE, "run", config, "--log-format", "json", environ=environ), config


def test_it_tells_systemd_how_it_fares(place: Place, manager: Manager) -> None:
    """Ready when all is bound; reloading and ready again at SIGHUP, good config or bad; stopping at SIGTERM."""
    program, config = start(place, manager, "tcp://127.0.0.1:0")
    assert manager.hear() == "READY=1"
    assert '"event": "ready"' in program.expect_line("ready")
    for text in (config.read_text(), "[[forward"):
        config.write_text(text)
        program.signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]+", manager.hear())
        assert manager.hear() == "READY=1"
    program.signal()
    assert manager.hear() == "STOPPING=1"
    assert program.wait() == 0


def test_it_is_not_ready_when_it_cannot_listen(place: Place, manager: Manager) -> None:
    """A bridge that ends because a listener cannot be bound has never said that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program, _ = start(place, manager, f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert program.wait() == 1
    assert manager.hear_nothing()


def test_it_feeds_the_watchdog(place: Place, manager: Manager) -> None:
    """It says several times that it lives, and falls silent when it is stopped in its tracks."""
    program, _ = start(place, manager, "tcp://127.0.0.1:0", WATCHDOG_USEC="200000")
    for _ in range(3):
        assert manager.hear("READY=1") == "WATCHDOG=1"
    os.kill(program.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.process.pid, os.WSTOPPED)
    manager.hear_nothing("READY=1", "WATCHDOG=1")  # what it said before
    manager.be_patient(0.5)
    with pytest.raises(TimeoutError):
        manager.hear()
    os.kill(program.process.pid, signal.SIGCONT)
    manager.be_patient(PATIENCE)
    assert manager.hear() == "WATCHDOG=1"
    assert program.stop() == 0
