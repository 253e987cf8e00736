"""A bridge as a Windows service, up to Windows: what it tells its manager and its log, and what is installed."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from typer.testing import CliRunner, Result

from hvbridge.address.endpoint import parse_endpoint
from hvbridge.cli import service as commands
from hvbridge.cli.app import app
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.config import ConfigError, load_config
from hvbridge.config import Machine as AnyMachine
from hvbridge.proxy.events import (
    AcceptPaused,
    BoundForward,
    ConnectionClosed,
    EventHandler,
    Ready,
    UpstreamChanged,
    VmChanged,
)
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.server import BindError, Shutdown
from hvbridge.service.windows import Installation, Installed, NotElevatedError, ServiceError
from hvbridge.service.windows.event_log import EventId, EventLogReporter, Severity, WarningHandler
from hvbridge.service.windows.lifecycle import Control, Service, State, Status
from hvbridge.splice import Reason
from hvbridge.transport.errors import Cause, DialError, ListenError

VM = "6a0c8e2e-0000-4000-8000-0000000000e2"
CONFIG = f"""\
[[forward]]
name = "ssh"
listen = "tcp://127.0.0.1:2222"
connect = "hyperv://{VM}/ssh"
"""
FORWARD = BoundForward("ssh", ["tcp://127.0.0.1:2222"], f"hyperv://{VM}/ssh")


# From start to stop.


class Run:
    """One run of a service, and all that it told."""

    def __init__(self, serve: Callable[..., Any], *, grace: float = 10.0) -> None:
        self.told: list[Status] = []
        self.events: list[tuple[EventId, str]] = []
        self.service = Service(
            serve,
            grace=grace,
            tell=self.told.append,
            log=lambda event, text: self.events.append((event, text)),
        )

    @property
    def states(self) -> list[State]:
        """Every state that was told."""
        return [status.state for status in self.told]


class Bridge:
    """A bridge with connections that would live on for ``busy`` seconds."""

    def __init__(self, busy: float = 0.0) -> None:
        self._busy = busy
        self.ready = trio.Event()
        self.drained_in = -1.0

    async def serve(self, shutdown: Shutdown, on_event: EventHandler) -> None:
        """Be ready, and drain at the shutdown."""
        on_event(Ready([FORWARD]))
        self.ready.set()
        await shutdown.drain.wait()
        began = trio.current_time()
        with trio.move_on_after(shutdown.grace):
            await trio.sleep(self._busy)
        self.drained_in = trio.current_time() - began


async def stop(run: Run, bridge: Bridge, control: Control, code: list[int]) -> None:
    """Run a service to its end, which ``control`` asks for from another thread, as a manager does."""

    async def main() -> None:
        code.append(await run.service.main())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main)
        await bridge.ready.wait()
        await trio.to_thread.run_sync(run.service.control, control)
        assert run.told[-1].state is State.STOPPING, "the manager knows when it has asked"


async def test_it_drains_when_it_is_told_to_stop(autojump_clock: trio.testing.MockClock) -> None:
    """Connections have the grace period to end, and the manager hears a sign of life each second until they have."""
    bridge = Bridge(busy=3.5)
    run = Run(bridge.serve)
    code: list[int] = []
    await stop(run, bridge, Control.STOP, code)
    assert code == [0]
    assert bridge.drained_in == 3.5
    assert run.states == [State.RUNNING] + 4 * [State.STOPPING]
    assert [status.checkpoint for status in run.told] == [0, 1, 2, 3, 4]
    assert all(status.wait_hint > 10 for status in run.told[1:]), (
        "the manager waits for longer than the grace period"
    )
    assert [event for event, _ in run.events] == [EventId.READY, EventId.DRAINING]


@pytest.mark.parametrize(
    ("control", "grace", "seconds"),
    [(Control.STOP, 10, 10), (Control.SHUTDOWN, 10, 3), (Control.SHUTDOWN, 1, 1)],
)
async def test_its_patience_ends(
    control: Control, grace: float, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """It waits for the grace period, or, when Windows shuts down, for no longer than Windows does."""
    bridge = Bridge(busy=1000)
    await stop(Run(bridge.serve, grace=grace), bridge, control, [])
    assert bridge.drained_in == seconds


def faulty_config() -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load_config("nowhere.toml", environ={}, machine_of=lambda _: AnyMachine())
    return raised.value


@pytest.mark.parametrize(
    ("error", "code", "event", "said"),
    [
        (faulty_config(), 2, EventId.CANNOT_START, "nowhere.toml: no such file"),
        (
            BindError([("web", ListenError(parse_endpoint("tcp://127.0.0.1:80"), Cause.IN_USE))]),
            1,
            EventId.CANNOT_START,
            'forward "web": cannot listen on tcp://127.0.0.1:80',
        ),
        (RuntimeError("a bug"), 1, EventId.BUG, "RuntimeError: a bug"),
    ],
)
def test_what_fails_is_an_event_and_an_exit_code(
    error: Exception, code: int, event: EventId, said: str
) -> None:
    """Whatever fails, the manager hears that it has stopped, with a code, and the log why."""

    async def serve(*_: object) -> None:
        raise error

    run = Run(serve)
    run.service.run()
    assert run.states == [State.STARTING, State.STOPPED]
    assert run.told[-1].exit_code == code
    [(logged, text)] = run.events
    assert logged is event
    assert said in text


def test_a_stop_after_the_end_is_too_late() -> None:
    """A control that comes when the bridge has ended by itself does nothing, and one of another kind never does."""

    async def serve(_: Shutdown, on_event: EventHandler) -> None:
        on_event(Ready([FORWARD]))

    run = Run(serve)
    run.service.run()
    assert run.states == [State.STARTING, State.RUNNING, State.STOPPED]
    run.service.control(Control.STOP)
    run.service.control(4)  # SERVICE_CONTROL_INTERROGATE
    assert len(run.told) == 3


# Events.


class Log(list[tuple[EventId, str]]):
    """An event log."""

    def __call__(self, event: EventId, text: str) -> None:
        self.append((event, text))


def test_what_is_logged() -> None:
    """Each change has an event; a connection has one only when it ended by a bug in hvbridge."""
    log = Log()
    ready = []
    reporter = EventLogReporter(log, lambda: ready.append(True))
    upstream = parse_endpoint(f"hyperv://{VM}/ssh")
    record = ConnectionRecord("ssh", "127.0.0.1:4000", upstream, accepted=0.0)

    reporter.on_event(Ready([FORWARD]))
    reporter.on_event(UpstreamChanged("ssh", DialError(upstream, Cause.NOT_RUNNING)))
    reporter.on_event(UpstreamChanged("ssh", None))
    reporter.on_event(VmChanged(VM, "started"))
    reporter.on_event(AcceptPaused("ssh", OSError(24, "Too many open files")))
    record.transfer.reason = Reason.DIAL_FAILED
    reporter.on_event(ConnectionClosed(record))
    record.bug = RuntimeError("a bug")
    reporter.on_event(ConnectionClosed(record))

    assert ready == [True]
    assert [(event, event.severity) for event, _ in log] == [
        (EventId.READY, Severity.INFORMATION),
        (EventId.UPSTREAM_DOWN, Severity.WARNING),
        (EventId.UPSTREAM_UP, Severity.INFORMATION),
        (EventId.VM_CHANGED, Severity.INFORMATION),
        (EventId.EXHAUSTED, Severity.WARNING),
        (EventId.BUG, Severity.ERROR),
    ]
    assert log[0][1] == f"ready\nssh: tcp://127.0.0.1:2222 -> hyperv://{VM}/ssh"
    assert log[1][1].startswith(f'forward "ssh": cannot dial hyperv://{VM}/ssh')
    assert "RuntimeError: a bug" in log[-1][1]


def test_warnings_of_other_parts_are_logged_once_a_minute() -> None:
    """A warning gets into the log, and does not fill it; what is less than a warning does not get there."""
    log = Log()
    logger = logging.Logger("trio")
    logger.addHandler(WarningHandler(log))
    logger.info("nothing")
    for _ in range(3):
        logger.warning("all is %s", "slow")
    logger.warning("all is fast")
    assert log == [(EventId.LOGGED, "trio: all is slow"), (EventId.LOGGED, "trio: all is fast")]


def test_every_event_is_in_the_documentation() -> None:
    """The page has every event with its level, and no other."""
    page = Path(__file__).parents[3] / "docs" / "how-to" / "run-as-a-windows-service.md"
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(str(event.value), event.severity.name.lower()) for event in EventId]


# Commands.


class Manager:
    """A service manager with room for what a test needs of it."""

    def __init__(self) -> None:
        self.installed: dict[str, Installation] = {}
        self.found = Installed(
            "running", 42, 0, r"NT SERVICE\hvbridge", "python.exe -m hvbridge service run it"
        )
        self.is_elevated = True

    def install(self, service: Installation) -> None:
        """Install it, where this may be done."""
        self._check_rights()
        self.installed[service.name] = service

    def uninstall(self, name: str) -> None:
        """Remove it, where this may be done."""
        self._check_rights()
        del self.installed[name]

    def find(self, name: str) -> Installed | None:
        """Return what a test says of it."""
        return self.found if name in self.installed else None

    def _check_rights(self) -> None:
        if not self.is_elevated:
            raise NotElevatedError("only an administrator may")


class Machine:
    """A machine with a service manager, a config, and a user's profile."""

    def __init__(self, directory: Path) -> None:
        self.manager = Manager()
        self.profile = directory / "profile"
        self.profile.mkdir()
        self.config = directory / "host.toml"
        self.config.write_text(CONFIG, encoding="utf-8")

    def __call__(self, *arguments: object) -> Result:
        """Run `hvbridge service`."""
        return CliRunner().invoke(app, ["service", *map(str, arguments)], prog_name="hvbridge")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give a machine on which nothing is installed."""
    machine = Machine(tmp_path)
    monkeypatch.setattr(commands, "service_manager", lambda: machine.manager)
    monkeypatch.setattr(commands, "load", load_for_any_machine)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(machine.profile))
    return machine


def test_install(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is the real interpreter with an absolute path to the config, and is told of its environment."""
    monkeypatch.setattr(sys, "_base_executable", "/python/python.exe")
    monkeypatch.chdir(machine.config.parent)
    result = machine("install", "host.toml", "--grace", "90s")
    assert result.exit_code == 0
    assert machine.manager.installed["hvbridge"] == Installation(
        "hvbridge",
        r"NT SERVICE\hvbridge",
        ["/python/python.exe", "-m", "hvbridge", "service", "run", str(machine.config), "--grace", "90s"],
        {"__PYVENV_LAUNCHER__": sys.executable},
    )
    first, *_, last = result.stdout.splitlines()
    assert first == r'installed "hvbridge": it starts at boot, as NT SERVICE\hvbridge'
    assert last == "to start it now: sc.exe start hvbridge"


def test_install_outside_a_virtual_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that is the real one needs no environment."""
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    assert machine("install", machine.config).exit_code == 0
    assert machine.manager.installed["hvbridge"].environment == {}


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("virtual", r"NT SERVICE\my-vms"),
        ("LocalService", r"NT AUTHORITY\LocalService"),
        ("LocalSystem", "LocalSystem"),
    ],
)
def test_install_says_what_the_account_still_needs(machine: Machine, user: str, account: str) -> None:
    """An account of few rights must be let to VMs, and to files in a profile; LocalSystem must not."""
    config = machine.profile / "host.toml"
    config.write_text(CONFIG, encoding="utf-8")
    result = machine("install", config, "--name", "my-vms", "--user", user)
    assert machine.manager.installed["my-vms"].account == account
    advice = [line for line in result.stdout.splitlines() if line.startswith("to let it")]
    if user == "LocalSystem":
        assert advice == []
        return
    assert rf'icacls "{config}" /grant "NT SERVICE\my-vms:(R)"' in advice[-2]
    assert advice[-1].endswith(f'Add-LocalGroupMember -SID S-1-5-32-578 -Member "{account}"')


def test_a_guests_service_needs_no_right_on_the_host(machine: Machine) -> None:
    """In a VM, whose forwards have the parent for their other side, no group is told of."""
    machine.config.write_text(
        '[[forward]]\nname = "rdp"\nlisten = "hyperv://parent/3389"\nconnect = "tcp://127.0.0.1:3389"\n',
        encoding="utf-8",
    )
    assert "Add-LocalGroupMember" not in machine("install", machine.config).stdout


@pytest.mark.parametrize("name", ["", "a b", "a/b", r"a\b", 'a"b', "é", "x" * 81])
def test_a_name_that_no_service_can_have(machine: Machine, name: str) -> None:
    """A name that Windows, or its command lines, would take amiss is refused."""
    result = machine("install", machine.config, "--name", name)
    assert result.exit_code == 2
    assert "is not a valid service name; write up to 80 letters" in result.stderr
    assert machine.manager.installed == {}


def test_a_faulty_config_is_not_installed(machine: Machine) -> None:
    """Faults are found before anything is installed."""
    machine.config.write_text("[[forward]]\n", encoding="utf-8")
    result = machine("install", machine.config)
    assert result.exit_code == 2
    assert "name: this key is missing" in result.stderr
    assert machine.manager.installed == {}


def test_who_is_no_administrator_is_told_the_command(machine: Machine) -> None:
    """One sentence has the reason and the command to run as an administrator."""
    machine("install", machine.config)
    machine.manager.is_elevated = False
    for arguments in (["install", str(machine.config)], ["uninstall"]):
        result = machine(*arguments)
        assert result.exit_code == 1
        before, _, command = result.stderr.partition("run this in a command prompt opened as administrator: ")
        assert before == "hvbridge: only an administrator may; "
        assert f"service {' '.join(arguments)} --name hvbridge" in command


def test_status(machine: Machine) -> None:
    """The status has process, account and command, and an exit code for scripts."""
    assert machine("status").stdout == '"hvbridge" is not installed\n'
    assert machine("status").exit_code == 1
    machine("install", machine.config)
    result = machine("status")
    assert result.exit_code == 0
    assert result.stdout == (
        '"hvbridge" is running, process 42, as NT SERVICE\\hvbridge\n'
        "command: python.exe -m hvbridge service run it\n"
    )
    machine.manager.found = machine.manager.found._replace(state="stopped", process=0, failure=2)
    result = machine("status")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == r'"hvbridge" is stopped, as NT SERVICE\hvbridge'
    assert "its last run ended with exit code 2; see the event log" in result.stdout


def test_uninstall(machine: Machine) -> None:
    """A service is removed; that it is not there is no failure."""
    machine("install", machine.config)
    assert machine("uninstall").stdout == 'removed "hvbridge"\n'
    assert machine.manager.installed == {}
    result = machine("uninstall")
    assert (result.exit_code, result.stdout) == (0, '"hvbridge" is not installed\n')


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has services of this kind")
@pytest.mark.parametrize(
    "arguments", [["install", "host.toml"], ["uninstall"], ["status"], ["run", "host.toml"]]
)
def test_elsewhere_it_says_what_to_do(arguments: list[str]) -> None:
    """Where there are no Windows services, one sentence says what there is."""
    result = CliRunner().invoke(app, ["service", *arguments])
    assert result.exit_code == 1
    assert result.stderr == (
        "hvbridge: a Windows service needs Windows; on Linux, run `hvbridge run` under systemd\n"
    )


def test_without_pywin32_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pywin32 is missing, one sentence has the command that installs it."""
    monkeypatch.setitem(sys.modules, "hvbridge.service.windows.manager", None)
    with (
        monkeypatch.context() as patch,
        pytest.raises(ServiceError, match="needs pywin32, which is not") as raised,
    ):
        patch.setattr(sys, "platform", "win32")
        commands.service_manager()
    assert str(raised.value).endswith("-m pip install pywin32")
