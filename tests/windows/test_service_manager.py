"""The service of Windows, through its service control manager: installed, started, drained, removed."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hvbridge.app.build import build_network
from hvbridge.app.run import run as run_config
from hvbridge.config import Machine, load_config
from hvbridge.proxy.events import Event, Ready
from hvbridge.proxy.server import Shutdown
from hvbridge.service.windows.event_log import EventId

if sys.platform != "win32":
    pytest.skip("services of this kind are there on Windows only", allow_module_level=True)
pytest.importorskip("win32service", reason="pywin32 is not installed")

import ctypes
import winreg

import win32service

from hvbridge.service.windows.manager import WindowsServiceManager

pytestmark = pytest.mark.skipif(
    not ctypes.windll.shell32.IsUserAnAdmin(), reason="only an administrator may install services"
)

VM = "6a0c8e2e-0b52-4f3c-9d1f-2f6a3a0b7c11"
PATIENCE = 100.0
"""Seconds after which what should have happened is taken for broken."""


class Services:
    """The services of this machine, one of which a test installs under a name of its own."""

    def __init__(self) -> None:
        self.name = f"hvbridge-test-{uuid.uuid4().hex[:8]}"

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `hvbridge service` with these arguments and the name of this service."""
        words = [sys.executable, "-m", "hvbridge", "service", *map(str, arguments), "--name", self.name]
        done = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False, encoding="utf-8")
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Run such a command, which must exit with ``code``, and return what it prints."""
        done = self.command(*arguments)
        assert done.returncode == code, done.stderr
        return done.stdout

    def handle(self) -> Any:
        """Open the service."""
        manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_ALL_ACCESS)
        return win32service.OpenService(manager, self.name, win32service.SERVICE_ALL_ACCESS)

    def status(self) -> Any:
        """Return what the service has told of itself."""
        return win32service.QueryServiceStatusEx(self.handle())

    def start(self) -> None:
        """Start it, and wait until it runs or has stopped again."""
        win32service.StartService(self.handle(), None)
        settled = (win32service.SERVICE_RUNNING, win32service.SERVICE_STOPPED)
        wait_until(lambda: self.status()["CurrentState"] in settled, "the service starts")

    def stop(self) -> int:
        """Ask it to stop, and return the state that it has on that."""
        return win32service.ControlService(self.handle(), win32service.SERVICE_CONTROL_STOP)[1]

    def expect_checkpoint_after(self, checkpoint: int) -> None:
        """Wait for a sign of life."""
        wait_until(lambda: self.status()["CheckPoint"] > checkpoint, "the manager sees that draining goes on")

    def expect_stopped(self) -> None:
        """Wait until it has stopped by itself and well."""
        wait_until(lambda: self.status()["CurrentState"] == win32service.SERVICE_STOPPED, "the service stops")
        assert self.status()["Win32ExitCode"] == 0

    def remove(self) -> None:
        """Remove what a failed test has left."""
        manager = WindowsServiceManager()
        if manager.find(self.name) is not None:
            manager.uninstall(self.name)


@pytest.fixture
def services() -> Iterator[Services]:
    """Give the services, and leave none behind."""
    services = Services()
    yield services
    services.remove()


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Poll until ``holds()``, or fail with ``what`` did not happen."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_config(path: Path, partition: str, listen: str, connect: str) -> Path:
    """Write a config of one forward in one partition of an emulator."""
    path.write_text(
        f'[emulator]\ndir = "vm"\npartition = "{partition}"\n'
        f'[[forward]]\nname = "echo"\nlisten = "{listen}"\nconnect = "{connect}"\n',
        encoding="utf-8",
    )
    return path


async def serve_vm(directory: Path, task_status: trio.TaskStatus[None]) -> None:
    """Run an emulated VM with an echo service and a bridge in it."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    def on_event(event: Event) -> None:
        if isinstance(event, Ready):
            task_status.started()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        path = write_config(directory / "guest.toml", VM, "hyperv://parent/7", f"tcp://127.0.0.1:{port}")
        config = load_config(path, environ={}, machine_of=lambda _: Machine())
        network = build_network(config.emulator, {})
        await run_config(config, network, Shutdown(0), on_event)


async def talk(stream: trio.SocketStream, text: bytes = b"hello") -> bytes:
    """Send ``text``, and return as many bytes as come back."""
    await stream.send_all(text)
    answer = b""
    while len(answer) < len(text) and (data := await stream.receive_some()):
        answer += data
    return answer


async def test_a_service_from_its_installation_to_its_end(services: Services, tmp_path: Path) -> None:
    """It is installed, started, carries a connection into a VM, drains when it is told to stop, and is removed."""
    directory = tmp_path / "with a space"
    directory.mkdir()
    port = free_port()
    config = write_config(directory / "host.toml", "host", f"tcp://127.0.0.1:{port}", f"hyperv://{VM}/7")
    run = trio.to_thread.run_sync
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_vm, directory)
            assert "is not installed" in await run(lambda: services("status", code=1))
            said = await run(services, "install", config, "--user", "LocalSystem")
            assert said.splitlines()[0].startswith(f'installed "{services.name}"')
            assert "is stopped, as LocalSystem" in await run(lambda: services("status", code=1))

            await run(services.start)
            assert "is running, process " in await run(services, "status")
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                assert await talk(stream) == b"hello"
                assert await run(services.stop) == win32service.SERVICE_STOP_PENDING
                first = services.status()
                assert "is stopping, process " in await run(lambda: services("status", code=1))
                with pytest.raises(OSError, match="all attempts to connect"):
                    await trio.open_tcp_stream("127.0.0.1", port)
                assert await talk(stream, b"still here") == b"still here"
                assert first["WaitHint"] > 10_000, "the manager must wait for longer than the grace period"
                await run(services.expect_checkpoint_after, first["CheckPoint"])
                assert services.status()["CurrentState"] == win32service.SERVICE_STOP_PENDING
            await run(services.expect_stopped)

            await run(services.start)
            assert "is running" in await run(services, "status")
            assert await run(services, "uninstall") == f'removed "{services.name}"\n'
            assert "is not installed" in await run(lambda: services("status", code=1))
            nursery.cancel_scope.cancel()


def test_a_faulty_config_stops_it_with_an_exit_code(services: Services, tmp_path: Path) -> None:
    """A config that is faulty when the service starts is its failure, and `status` tells where to read of it."""
    port = free_port()
    config = write_config(tmp_path / "host.toml", "host", f"tcp://127.0.0.1:{port}", f"hyperv://{VM}/7")
    services("install", config, "--user", "LocalSystem")
    config.write_text("[[forward]]\n", encoding="utf-8")
    services.start()
    status = services.status()
    assert status["CurrentState"] == win32service.SERVICE_STOPPED
    assert status["ServiceSpecificExitCode"] == 2, status
    assert "its last run ended with exit code 2; see the event log" in services("status", code=1)


def test_a_port_that_is_taken_stops_it_with_an_exit_code(services: Services, tmp_path: Path) -> None:
    """A listener that cannot be bound is a failure of the service."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(tmp_path / "host.toml", "host", address, f"hyperv://{VM}/7")
        services("install", config, "--user", "LocalSystem")
        services.start()
    assert services.status()["ServiceSpecificExitCode"] == 1


def test_what_is_installed(services: Services, tmp_path: Path) -> None:
    """By default it starts at boot, as an account of its own, and its events have a text; none of it stays."""
    config = write_config(tmp_path / "host.toml", "host", "tcp://127.0.0.1:0", f"hyperv://{VM}/7")
    services("install", config, "--grace", "90s")
    _, start, _, command, _, _, _, account, _ = win32service.QueryServiceConfig(services.handle())
    assert start == win32service.SERVICE_AUTO_START
    assert account == rf"NT SERVICE\{services.name}"
    assert command.endswith(f" -m hvbridge service run {config} --grace 90s")
    source = rf"SYSTEM\CurrentControlSet\Services\EventLog\Application\{services.name}"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, source) as key:
        assert winreg.QueryValueEx(key, "EventMessageFile")[0].endswith("EventCreate.exe")
    assert max(EventId) <= 1000, "EventCreate.exe has a text for ids up to 1000"
    services("uninstall")
    with pytest.raises(FileNotFoundError):
        winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, source)
    assert services("uninstall") == f'"{services.name}" is not installed\n'


def test_it_is_installed_once(services: Services, tmp_path: Path) -> None:
    """A second service of one name is refused."""
    config = write_config(tmp_path / "host.toml", "host", "tcp://127.0.0.1:0", f"hyperv://{VM}/7")
    services("install", config)
    done = services.command("install", config)
    assert done.returncode == 1
    assert "a service of this name already exists; remove it first" in done.stderr


def test_another_programs_service_is_left_alone(services: Services) -> None:
    """`uninstall` with the name of a service that is not hvbridge's removes nothing."""
    manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_ALL_ACCESS)
    handle = win32service.CreateService(
        manager, services.name, services.name, win32service.SERVICE_ALL_ACCESS,
        win32service.SERVICE_WIN32_OWN_PROCESS, win32service.SERVICE_DEMAND_START,
        win32service.SERVICE_ERROR_NORMAL, "other.exe", None, False, None, None, None,
    )  # fmt: skip
    try:
        done = services.command("uninstall")
        assert done.returncode == 1
        assert "does not belong to hvbridge" in done.stderr
        assert services.status()["CurrentState"] == win32service.SERVICE_STOPPED
    finally:
        win32service.DeleteService(handle)


def test_its_command_is_for_windows_alone(tmp_path: Path) -> None:
    """Who types the command of the service is told what to type instead."""
    config = write_config(tmp_path / "host.toml", "host", "tcp://127.0.0.1:0", f"hyperv://{VM}/7")
    words = [sys.executable, "-m", "hvbridge", "service", "run", str(config)]
    done = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False, encoding="utf-8")
    assert done.returncode == 1
    assert "use `hvbridge run` instead" in done.stderr


def test_the_interpreter_finds_its_virtual_environment(tmp_path: Path) -> None:
    """The variable that `install` gives the service is one that this Python heeds."""
    (tmp_path / "Scripts").mkdir()
    python = tmp_path / "Scripts" / "python.exe"
    python.touch()
    # The Python that a venv's launcher starts; no public name has it.
    base: str = vars(sys)["_base_executable"]
    home = Path(base).parent
    (tmp_path / "pyvenv.cfg").write_text(f"home = {home}\n", encoding="utf-8")
    words = [base, "-c", "import sys; print(sys.prefix)"]
    environ = os.environ | {"__PYVENV_LAUNCHER__": str(python)}
    done = subprocess.run(
        words, env=environ, capture_output=True, timeout=PATIENCE, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == str(tmp_path)
