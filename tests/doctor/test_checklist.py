"""The doctor tries each forward, and says what is wrong and what to do: on the emulator, and on fakes of Windows."""

import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from hvbridge.address.endpoint import Endpoint, HypervEndpoint
from hvbridge.cli.doctor import doctor, show
from hvbridge.config import Forward
from hvbridge.doctor import CHECKS_OF_CAUSE, Check, Finding, State
from hvbridge.doctor.checklist import Target, examine
from hvbridge.doctor.loopback import check_connect_mode
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.guid import HOST, PARENT, service_id_of_port
from hvbridge.hyperv.services import RegistrationError, Service
from hvbridge.hyperv.vms import Vm, VmError, VmState
from hvbridge.transport.emulator.services import EmulatorRegistry
from hvbridge.transport.emulator.vms import EmulatorDirectory
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import Network, emulated_network
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

DEV, OLD = uuid.UUID(int=0xDE7), uuid.UUID(int=0x01D)
SSH = service_id_of_port(22)


def forward(**settings: object) -> Forward:
    """A forward that finds out quickly; every setting may be summary otherwise."""
    defaults = {"name": "ssh", "listen": "tcp://127.0.0.1:0", "connect": "hyperv://dev-box/ssh"}
    return Forward.model_validate(defaults | {"dial_timeout": "100ms"} | settings)


def local(**settings: object) -> Forward:
    """A forward to a service of this machine, for what its upstream does not matter to."""
    return forward(connect="tcp://127.0.0.1:1", **settings)


async def nothing_to_run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    raise FileNotFoundError(2, "no such program")


# Who has a port is asked of the true /proc on Linux. On Windows there is none; under Wine it would be Linux's, where
# wineserver loses the lock by which it is found, and ended, when a descriptor of its own is opened for a test.
NO_WINDOWS = Machine("linux", root=Path("/" if sys.platform == "linux" else "/nowhere"), run=nothing_to_run)


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    """A host with a VM that runs, and one that is off."""
    vms = EmulatorDirectory(tmp_path / "vm")
    vms.add("dev-box", DEV)
    vms.add("old-box", OLD, VmState.OFF)
    return tmp_path / "vm"


async def look(emulator: Path, *forwards: Forward, enforce: bool = False) -> dict[Check, Finding]:
    """Examine a host of the emulator; return what was found of its forwards."""
    network = emulated_network(emulator, HOST, enforce_registration=enforce)
    registry = EmulatorRegistry(emulator) if enforce else None
    target = Target(network, registry, str(emulator), forwards, "hvbridge services register")
    return {finding.check: finding for finding in await examine(target, NO_WINDOWS) if finding.forward}


def states(found: dict[Check, Finding]) -> dict[Check, State]:
    return {check: finding.state for check, finding in found.items()}


# Forwards, on the emulator.


async def test_all_is_well(emulator: Path) -> None:
    """A forward whose VM runs, whose service is registered and answers, has nothing wrong."""
    EmulatorRegistry(emulator).register(Service(SSH, "SSH"))
    guest = emulated_network(emulator, DEV, enforce_registration=False)
    [listener] = await guest.listen(HypervEndpoint(PARENT, SSH), ListenOptions())
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept_one, listener)
        found = await look(emulator, forward(dial_timeout="5s"), enforce=True)
    assert set(states(found).values()) == {State.OK}, found
    assert list(found) == [Check.LISTEN, Check.VM, Check.SERVICE, Check.DIAL]
    assert found[Check.VM].summary == f'"dev-box" ({DEV}) is running'
    assert found[Check.SERVICE].summary == f'ssh ({SSH}) is registered as "SSH"'
    assert re.fullmatch(
        r"hyperv://dev-box/ssh connected in \d+ ms; nothing was sent", found[Check.DIAL].summary
    )


async def accept_one(listener: Listener) -> None:
    """Accept one connection, on which nothing may come."""
    async with await listener.accept() as stream:
        await stream.do_handshake()
        assert await stream.receive_some() == b""


async def test_vm_is_off(emulator: Path) -> None:
    """A VM that is off is named with its state; the dial points there instead of saying it again."""
    found = await look(emulator, forward(connect="hyperv://old-box/ssh"))
    assert states(found) == {Check.LISTEN: State.OK, Check.VM: State.FAILED, Check.DIAL: State.FAILED}
    assert found[Check.VM].summary == f'"old-box" ({OLD}) is off'
    assert found[Check.DIAL].summary == "hyperv://old-box/ssh: the VM is not running"
    assert found[Check.DIAL].advice == "first fix what vm reports"


async def test_vm_is_off_and_will_be_started(emulator: Path) -> None:
    """With start = true a VM that is off is nothing wrong, and it is not started for the sake of a look."""
    found = await look(emulator, forward(connect="hyperv://old-box/ssh", start=True))
    assert states(found) == {Check.LISTEN: State.OK, Check.VM: State.OK, Check.DIAL: State.NOT_APPLICABLE}
    assert {vm.name: vm.state for vm in await EmulatorDirectory(emulator).vms()}["old-box"] is VmState.OFF


async def test_nobody_listens(emulator: Path) -> None:
    """A running VM with no listener leaves the dial without an answer, within its time."""
    found = await look(emulator, forward())
    assert states(found) == {Check.LISTEN: State.OK, Check.VM: State.OK, Check.DIAL: State.FAILED}
    assert found[Check.DIAL].summary == "hyperv://dev-box/ssh: no answer from that service"
    assert found[Check.DIAL].advice.startswith("start hvbridge, or another listener")


async def test_service_is_not_registered(emulator: Path) -> None:
    """A service that is not registered is named, with the command that registers it."""
    found = await look(emulator, forward(), enforce=True)
    assert states(found)[Check.SERVICE] is State.FAILED
    assert found[Check.SERVICE].summary == f"ssh ({SSH}) is not registered"
    assert found[Check.SERVICE].advice.endswith("as administrator: hvbridge services register")
    assert found[Check.DIAL].advice == "first fix what service reports"


async def test_name_is_unknown(emulator: Path) -> None:
    """A name that no VM has fails with the one that was meant, and nothing is dialled."""
    found = await look(emulator, forward(connect="hyperv://devbox/ssh"))
    assert states(found) == {
        Check.LISTEN: State.OK,
        Check.VM: State.FAILED,
        Check.DIAL: State.NOT_APPLICABLE,
    }
    assert (found[Check.VM].summary, found[Check.VM].advice) == (
        'there is no VM named "devbox"',
        'did you mean "dev-box"?',
    )


async def test_id_is_not_listed(emulator: Path) -> None:
    """An id that the directory does not list is in doubt, for WSL2's VM is never listed; the dial decides."""
    found = await look(emulator, forward(connect=f"hyperv://{uuid.UUID(int=1)}/ssh"))
    assert states(found)[Check.VM] is State.DOUBTFUL
    assert states(found)[Check.DIAL] is State.FAILED


async def test_looking_leaves_the_emulator_alone(emulator: Path) -> None:
    """Looking at a forward that listens for VMs makes no partition, which would be a VM that runs."""
    before = sorted(emulator.rglob("*"))
    found = await look(emulator, forward(listen="hyperv://children/ssh", connect="tcp://127.0.0.1:1"))
    assert states(found)[Check.LISTEN] is State.NOT_APPLICABLE
    assert sorted(emulator.rglob("*")) == before


async def test_an_endpoint_that_this_machine_cannot_have(emulator: Path) -> None:
    """What a machine can never do is summary for the listener and for the dial."""
    found = await look(emulator, forward(listen="hyperv://parent/7", connect="hyperv://parent/8"))
    assert states(found) == {Check.LISTEN: State.FAILED, Check.DIAL: State.FAILED}
    assert found[Check.DIAL].summary == "hyperv://parent/8: the host has no parent"
    assert found[Check.DIAL].advice.startswith("write the VM's id")


async def test_many_dials_take_no_longer_than_one(emulator: Path) -> None:
    """Forwards are looked at at once."""
    forwards = [forward(name=f"ssh-{number}", dial_timeout="400ms") for number in range(20)]
    began = trio.current_time()
    await look(emulator, *forwards)
    assert trio.current_time() - began < 4  # of 8 in turn


# Listeners.


async def test_a_port_is_taken(emulator: Path) -> None:
    """A port that somebody has is taken, and on Linux it is summary by whom: by this very process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = await look(emulator, forward(listen=f"tcp://127.0.0.1:{port}"))
    assert found[Check.LISTEN].summary.startswith(f"tcp://127.0.0.1:{port}: the address is in use")
    if sys.platform == "linux":
        assert re.search(r"in use by \S.* \(pid \d+\)$", found[Check.LISTEN].summary)


@pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix-domain sockets on Windows")
async def test_a_unix_socket_is_taken(emulator: Path) -> None:
    """So it is with a Unix socket; and a free one is left as free as it was."""
    if sys.platform == "win32":
        raise NotImplementedError
    path = emulator.parent / "s"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        found = await look(emulator, forward(listen=f"unix://{path}"))
        assert found[Check.LISTEN].summary.startswith(f"unix://{path}: the address is in use")
        if sys.platform == "linux":
            assert "(pid " in found[Check.LISTEN].summary
    path.unlink()
    found = await look(emulator, forward(listen=f"unix://{path}"))
    assert states(found)[Check.LISTEN] is State.OK
    assert not path.exists()


class Kernel:
    """Hyper-V and TCP as they are scripted; what is not fails."""

    def __init__(
        self, *, listen: OSError | None = None, cause: Cause = Cause.UNKNOWN, vms: object = None
    ) -> None:
        self.vms = vms
        self._listen = listen
        self._cause = cause

    def fault(self, endpoint: Endpoint, role: str) -> None:
        return None

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> list[Listener]:
        if self._listen is not None:
            raise ListenError(endpoint, self._cause, self._listen)
        return []

    async def dial(self, endpoint: Endpoint, options: DialOptions) -> SocketStream:
        raise DialError(endpoint, self._cause)


def windows(**printed: str) -> Machine:
    """A Windows host on which the programs print what is given by their names."""

    async def run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        name = command[0].removesuffix(".exe")
        code = 0 if name in printed else 1060
        return subprocess.CompletedProcess(command, code, printed.get(name, "").encode(), b"")

    return Machine("win32", "CPython 3.11.9", frozenset(), run=run)


async def listener_on_windows(kernel: Kernel, **printed: str) -> Finding:
    """What is found of a forward that listens on TCP port 2222."""
    target = Target(kernel, None, forwards=[local(listen="tcp://127.0.0.1:2222")])  # type: ignore[arg-type]
    [found] = [
        finding for finding in await examine(target, windows(**printed)) if finding.check is Check.LISTEN
    ]
    return found


@pytest.mark.parametrize(
    ("program", "state"),
    [("python.exe", State.DOUBTFUL), ("hvbridge.exe", State.DOUBTFUL), ("java.exe", State.FAILED)],
)
async def test_a_port_may_be_taken_by_hvbridge_itself(program: str, state: State) -> None:
    """A port that hvbridge may have by running is in doubt; one that another program has is a failure."""
    found = await listener_on_windows(
        Kernel(listen=OSError(10048, ""), cause=Cause.IN_USE),
        netstat="  TCP    127.0.0.1:2222    0.0.0.0:0    LISTENING    4711\r\n",
        tasklist=f'"{program}","4711","N/A"\r\n',
    )
    assert found.state is state
    assert found.summary == f"tcp://127.0.0.1:2222: the address is in use by {program} (pid 4711)"


async def test_a_port_is_taken_and_nobody_knows_by_whom() -> None:
    """Where the holder does not show, it may be hvbridge itself, and that is in doubt."""
    found = await listener_on_windows(Kernel(listen=OSError(10048, ""), cause=Cause.IN_USE))
    assert found.state is State.DOUBTFUL
    assert found.summary == "tcp://127.0.0.1:2222: the address is in use, by an unknown process"


async def test_a_port_that_windows_keeps() -> None:
    """A listener that is not permitted is explained by the range that Windows keeps, where there is one."""
    kernel = Kernel(listen=OSError(10013, ""), cause=Cause.NOT_PERMITTED)
    found = await listener_on_windows(kernel, netsh="      2180        2279\r\n")
    assert found.summary == "tcp://127.0.0.1:2222: Windows reserves the ports 2180-2279"
    found = await listener_on_windows(kernel, netsh="      5357        5357\r\n")
    assert found.summary.startswith("tcp://127.0.0.1:2222: not permitted")


# VMs that cannot be asked for, and WSL2's.


class Directory:
    """A directory of VMs that knows, or says why not."""

    def __init__(self, listed: Sequence[Vm] | VmError, wsl: uuid.UUID | VmError) -> None:
        self._listed, self._wsl = listed, wsl
        self.asked: list[str] = []

    async def vms(self) -> list[Vm]:
        self.asked.append("vms")
        if isinstance(self._listed, VmError):
            raise self._listed
        return list(self._listed)

    async def wsl_vm_id(self, *, start: bool) -> uuid.UUID:
        assert not start
        self.asked.append("wsl")
        if isinstance(self._wsl, VmError):
            raise self._wsl
        return self._wsl


DENIED = VmError("this user may not ask Hyper-V", "join the group Hyper-V Administrators")


@pytest.mark.parametrize(
    ("connect", "listed", "wsl", "state", "asked"),
    [
        ("hyperv://wsl/22", [], DEV, State.OK, ["wsl"]),
        ("hyperv://wsl/22", [], VmError("wsl.exe is not there", "install WSL"), State.FAILED, ["wsl"]),
        ("hyperv://dev-box/22", DENIED, DEV, State.FAILED, ["vms"]),
        (f"hyperv://{DEV}/22", DENIED, DEV, State.DOUBTFUL, ["vms"]),
        (f"hyperv://{DEV}/22", [Vm("dev-box", DEV, VmState.STARTING)], DEV, State.DOUBTFUL, ["vms"]),
        (f"hyperv://{DEV}/22", [Vm("dev-box", DEV, VmState.UNKNOWN)], DEV, State.DOUBTFUL, ["vms"]),
        ("hyperv://loopback/22", DENIED, DEV, None, []),
        ("tcp://127.0.0.1:22", DENIED, DEV, None, []),
    ],
)
async def test_vms_are_asked_for_once_and_only_where_named(
    connect: str, listed: Any, wsl: Any, state: State | None, asked: list[str]
) -> None:
    """Who cannot be asked fails a name and leaves an id in doubt; nobody is asked for what no forward names."""
    directory = Directory(listed, wsl)
    kernel = Kernel(vms=directory)
    forwards = [forward(connect=connect), forward(connect=connect, name="again")]
    found = await examine(Target(kernel, None, forwards=forwards), NO_WINDOWS)  # type: ignore[arg-type]
    assert {finding.state for finding in found if finding.check is Check.VM} == ({state} if state else set())
    assert directory.asked == asked


@pytest.mark.parametrize("name", ["a; b", "a;b", "; write nothing"])
async def test_a_name_is_not_taken_apart(name: str) -> None:
    """A VM's name may hold what stands between a problem and its advice."""
    kernel = Kernel(vms=Directory([Vm("dev-box", DEV, VmState.RUNNING)], DEV))
    target = Target(kernel, None, forwards=[forward(connect=f"hyperv://{name}/22")])  # type: ignore[arg-type]
    (found,) = [finding for finding in await examine(target, NO_WINDOWS) if finding.check is Check.VM]
    assert found.summary == f'there is no VM named "{name}"'
    assert found.advice == 'there are "dev-box"'


async def test_a_registry_that_cannot_be_read(emulator: Path) -> None:
    """Services are in doubt where the registry does not tell."""

    class Locked(EmulatorRegistry):
        def services(self) -> list[Service]:
            raise RegistrationError("the Windows registry reported: no")

    network = emulated_network(emulator, HOST, enforce_registration=False)
    target = Target(network, Locked(emulator), str(emulator), [forward()])
    [found] = [finding for finding in await examine(target, NO_WINDOWS) if finding.check is Check.SERVICE]
    assert (found.state, found.summary) == (State.DOUBTFUL, "the Windows registry reported: no")


# What a config asks of a machine.


async def test_a_config_asks_for_more(tmp_path: Path) -> None:
    """Wildcard listeners are held against WSL2; low vsock ports against the user's capabilities."""
    (tmp_path / "sys" / "bus" / "vmbus").mkdir(parents=True)
    wildcard = local(listen="hyperv://children/22")
    on_windows = await examine(
        Target(Kernel(), None, forwards=[wildcard]),  # type: ignore[arg-type]
        windows(wsl="Ubuntu\r\n"),
    )
    assert [finding.state for finding in on_windows if finding.check is Check.WSL2] == [State.DOUBTFUL]
    low = local(listen="hyperv://parent/1023")
    for endpoint, expected in ((low, 1), (local(listen="hyperv://parent/1024"), 0), (wildcard, 1)):
        on_linux = await examine(
            Target(Kernel(), None, forwards=[endpoint]),  # type: ignore[arg-type]
            replace(NO_WINDOWS, root=tmp_path),
        )
        assert sum(finding.check is Check.LOW_PORTS for finding in on_linux) == expected


# Connect modes.


class Modes(Network):
    """Hyper-V sockets within one partition, of which some modes fail to connect."""

    def __init__(self, directory: Path, **failures: Cause) -> None:
        self._sockets = emulated_network(directory, HOST, enforce_registration=False)
        self._failures = failures

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> list[Listener]:
        if "listen" in self._failures:
            raise ListenError(endpoint, self._failures["listen"])
        return await self._sockets.listen(endpoint, options)

    async def dial(self, endpoint: Endpoint, options: DialOptions) -> SocketStream:
        if options.connect_mode in self._failures:
            raise DialError(endpoint, self._failures[options.connect_mode])
        return await self._sockets.dial(endpoint, options)


@pytest.mark.parametrize(
    ("failures", "state", "words"),
    [
        ({}, State.OK, "nonblocking and thread both connect"),
        ({"nonblocking": Cause.UNKNOWN}, State.DOUBTFUL, 'connect_mode = "thread"'),
        ({"thread": Cause.TIMED_OUT}, State.DOUBTFUL, "thread does not: timed out"),
        ({"thread": Cause.UNKNOWN, "nonblocking": Cause.REFUSED}, State.FAILED, "nothing connects"),
        ({"thread": Cause.NOT_PERMITTED, "nonblocking": Cause.NOT_PERMITTED}, State.DOUBTFUL, "be tested"),
        ({"listen": Cause.NOT_PERMITTED}, State.DOUBTFUL, "loopback could not be tested"),
        ({"listen": Cause.UNKNOWN}, State.FAILED, "loopback could not be tested"),
    ],
)
async def test_connect_modes(tmp_path: Path, failures: dict[str, Cause], state: State, words: str) -> None:
    """Each mode is tried over loopback, and the advice is for the mode that works."""
    found = await check_connect_mode(Modes(tmp_path / "vm", **failures))
    assert found.state is state
    assert words in f"{found.summary}; {found.advice}"


# Causes.


DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "how-to" / "find-out-what-is-wrong.md").read_text(encoding="utf-8")


def test_every_cause_leads_to_a_check() -> None:
    """Whatever a dial or a listen fails with, there is a check to look at, and the errors' page links it."""
    assert list(CHECKS_OF_CAUSE) == list(Cause)
    link = "[{0}](../how-to/find-out-what-is-wrong.md#{0})".format
    rows = [f"| {cause} | {', '.join(map(link, checks))} |" for cause, checks in CHECKS_OF_CAUSE.items()]
    table = "\n".join(["| cause | checks of `hvbridge doctor` |", "|---|---|", *rows, ""])
    assert all(CHECKS_OF_CAUSE.values())
    assert table in (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")


def test_every_check_is_on_the_page() -> None:
    """The page has a heading for each check, in the order in which they are shown, and the words of each state."""
    assert re.findall(r"^### (.+)$", PAGE, re.MULTILINE) == list(Check)
    assert re.findall(r"^\| . \| `(.+?)` \|", PAGE, re.MULTILINE) == [
        State.OK,
        State.FAILED,
        State.DOUBTFUL,
        State.NOT_APPLICABLE,
    ]


# The command.

CONFIG = """\
[emulator]
dir = "vm"

[[forward]]
name = "ssh"
listen = "tcp://127.0.0.1:0"
connect = "hyperv://{vm}/ssh"
dial_timeout = "100ms"
start = {start}
"""


def write_config(emulator: Path, vm: str, *, start: bool = False) -> Path:
    path = emulator.parent / "host.toml"
    path.write_text(CONFIG.format(vm=vm, start=str(start).lower()), encoding="utf-8")
    return path


def test_exit_codes(emulator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with 0 where nothing fails, with 1 where anything does, and with 2 for a faulty config."""
    assert doctor(write_config(emulator, "old-box", start=True), as_json=False) == 0
    assert "Nothing failed" in capsys.readouterr().out
    assert doctor(write_config(emulator, "old-box"), as_json=False) == 1
    assert "2 checks failed" in capsys.readouterr().out
    assert doctor(emulator.parent / "nowhere.toml", as_json=False) == 2
    assert "nowhere.toml" in capsys.readouterr().err


def test_json(emulator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get every finding under its stable names, and nothing else on standard output."""
    assert doctor(write_config(emulator, "old-box"), as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert [(check["forward"], check["check"], check["state"]) for check in answer["checks"]] == [
        (None, "python", "ok"),
        (None, "emulator", "ok"),
        ("ssh", "listen", "ok"),
        ("ssh", "vm", "failed"),
        ("ssh", "dial", "failed"),
    ]
    assert {key for check in answer["checks"] for key in check} == {
        "check",
        "forward",
        "state",
        "summary",
        "said",
        "advice",
    }


def test_a_service_by_name(emulator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A service is shown as the config calls it, and told to be registered with its id."""
    config = write_config(emulator, "dev-box")
    text = config.read_text(encoding="utf-8").replace("dev-box/ssh", "dev-box/web")
    config.write_text(text.replace('dir = "vm"', 'dir = "vm"\nenforce_registration = true'), encoding="utf-8")
    assert doctor(config, as_json=False) == 2
    assert '"web" is not a service; ' in capsys.readouterr().err
    EmulatorRegistry(emulator).register(Service(OLD, "web"))
    doctor(config, as_json=False)
    told = capsys.readouterr().out
    assert "hyperv://dev-box/web" in told
    assert f'service      {OLD} is registered as "web"' in told


def test_as_a_program(emulator: Path) -> None:
    """It is a command of hvbridge, whose exit code and output programs can use."""
    command = [sys.executable, "-m", "hvbridge", "doctor", str(write_config(emulator, "old-box")), "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout)["ok"] is False


def test_without_a_config(
    emulator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a config only the machine is looked at; the environment may emulate it, and may be wrong."""
    monkeypatch.setenv("HVBRIDGE_EMULATOR", str(emulator))
    monkeypatch.delenv("HVBRIDGE_PARTITION", raising=False)
    assert doctor(None, as_json=True) == 0
    assert [check["check"] for check in json.loads(capsys.readouterr().out)["checks"]] == [
        "python",
        "emulator",
    ]
    monkeypatch.setenv("HVBRIDGE_PARTITION", "nobody")
    assert doctor(None, as_json=True) == 2
    assert "HVBRIDGE_PARTITION" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the page shows an error in the words of Linux")
def test_the_page_shows_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example is what the doctor says of the config above it."""
    config, example = re.findall(r"^```(?:toml|console)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for port in ("2222", "8080"):  # which may be taken on this machine
        with socket.create_server(("127.0.0.1", 0)) as free:
            one = str(free.getsockname()[1])
        config, example = config.replace(port, one), example.replace(port, one)
    monkeypatch.chdir(tmp_path)
    Path("host.toml").write_text(config, encoding="utf-8")
    assert doctor(Path("host.toml"), as_json=False) == 1
    told = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    told = re.sub(r"(?<=python       ).*", "CPython 3.13.2", told)
    assert example == f"$ hvbridge doctor host.toml\n{told}"


FINDINGS = [
    Finding(Check.PYTHON, State.OK, "CPython 3.13.2, with Hyper-V sockets"),
    Finding(
        Check.RIGHTS, State.FAILED, "neither [a] member nor elevated", "join the group; then sign in again"
    ),
    Finding(Check.WSL2, State.DOUBTFUL, "any does not accept from WSL2"),
    Finding(Check.SERVICE, State.NOT_APPLICABLE, "not needed", forward="ssh"),
]


def shown(findings: Iterable[Finding], **console: Any) -> str:
    output = Console(file=StringIO(), **console)
    show(list(findings), [forward()], output)
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_checklist() -> None:
    """A person sees a mark, a name and a sentence for each check, the advice below it, and the sum of it all."""
    assert shown(FINDINGS) == (
        "this machine\n"
        "✓ python       CPython 3.13.2, with Hyper-V sockets\n"
        "✗ rights       neither [a] member nor elevated\n"
        "               → join the group; then sign in again\n"
        "! wsl2         any does not accept from WSL2\n"
        "\n"
        "ssh  tcp://127.0.0.1:0 → hyperv://dev-box/ssh\n"
        "– service      not needed\n"  # noqa: RUF001
        "\n"
        "1 check failed, 1 doubtful\n"
    )


def test_the_checklist_in_a_terminal() -> None:
    """In a terminal, long sentences are wrapped below their own beginning."""
    screen = shown(FINDINGS, force_terminal=True, no_color=True, width=40, color_system=None)
    assert max(map(len, screen.splitlines())) <= 46  # the title of a forward is never broken
    assert "✗ rights       neither [a] member nor\n               elevated\n" in screen


def test_the_checklist_without_unicode() -> None:
    """Where the output has no check marks, ASCII stands for them."""
    raw = BytesIO()
    with TextIOWrapper(raw, encoding="cp1252", write_through=True) as output:
        show(FINDINGS, [forward()], Console(file=output))
        assert raw.getvalue().isascii()
        assert b"x rights" in raw.getvalue()
