"""What a good config means: values, defaults, variables, paths."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvbridge.address.endpoint import HypervEndpoint, TcpEndpoint, UnixEndpoint, VsockEndpoint
from hvbridge.config import Config, EmulatorSettings, Machine, Settings, load_config
from hvbridge.hyperv import guid
from hvbridge.hyperv.services import Service
from hvbridge.units import OFF, format_bandwidth, format_duration, format_rate, format_size

FORWARD = """
[[forward]]
name = "ssh"
listen = "127.0.0.1:2222"
connect = "hyperv://parent/ssh"
"""


def any_machine(_emulator: EmulatorSettings | None) -> Machine:
    """A machine that can do everything."""
    return Machine()


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """Load a config with a text, from a file of its own."""
    path = tmp_path_factory.mktemp("config") / "config.toml"

    def load(text: str, **environ: str) -> Config:
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ=environ, machine_of=any_machine)

    return load


def test_a_forward_alone_has_the_documented_defaults(load: Callable[..., Config]) -> None:
    """A file with one forward runs with a default for everything; an idle SSH session lives."""
    config = load(FORWARD)
    (forward,) = config.forwards
    assert forward.name == "ssh"
    assert forward.listen == TcpEndpoint("127.0.0.1", 2222)
    assert forward.connect == HypervEndpoint(guid.PARENT, guid.service_id_of_port(22))
    assert (forward.dial_timeout, forward.idle_timeout) == (10.0, OFF)
    assert (forward.half_close_timeout, forward.max_lifetime) == (300.0, OFF)
    assert (forward.max_connections, forward.max_pending_dials, forward.backlog) == (1024, 64, 1024)
    assert (forward.buffer, forward.tcp_keepalive) == (None, 60.0)
    assert (forward.expose, forward.connect_mode, forward.connected_suspend) == (False, "auto", False)
    assert config.emulator is None


@pytest.mark.parametrize(("settings", "waits"), [("", 0), ('wait = "1m"', 60), ("start = true", 120)])
def test_starting_a_vm_waits_for_its_boot(load: Callable[..., Config], settings: str, waits: float) -> None:
    """Nothing is waited for by default; a VM that is started gets the time of a slow boot."""
    config = load(FORWARD.replace("hyperv://parent/", "hyperv://dev-box/") + settings)
    assert config.forwards[0].effective_wait == waits


def test_what_is_started_may_be_saved(load: Callable[..., Config]) -> None:
    """start and idle_save come together, also through [defaults]."""
    forward = FORWARD.replace("hyperv://parent/", "hyperv://dev-box/") + 'idle_save = "30m"\n'
    assert load("[defaults]\nstart = true\n" + forward).forwards[0].idle_save == 1800


def test_a_forward_overrules_the_defaults(load: Callable[..., Config]) -> None:
    """What [defaults] says holds for each forward that does not say otherwise, even back to the built-in."""
    config = load(
        """
[defaults]
idle_timeout = "30m"
buffer = "64KiB"
tcp_keepalive = "off"
backlog = 7
"""
        + FORWARD
        + """
[[forward]]
name = "rdp"
listen = "127.0.0.1:3390"
connect = "hyperv://parent/xrdp"
idle_timeout = "off"
buffer = "system"
tcp_keepalive = 90
"""
    )
    ssh, rdp = config.forwards
    assert (ssh.idle_timeout, ssh.buffer, ssh.tcp_keepalive, ssh.backlog) == (1800.0, 65536, OFF, 7)
    assert (rdp.idle_timeout, rdp.buffer, rdp.tcp_keepalive, rdp.backlog) == (OFF, None, 90.0, 7)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("unix:///${DIR}/a", "/run/a"),
        ("unix:///${DIR}${DIR}", "/runrun"),
        ("unix:///$${DIR}", "/${DIR}"),
        ("unix:///$$${DIR}", "/$${DIR}"),
        ("unix:///$DIR", "/$DIR"),
        ("unix:///$$", "/$$"),
        ("unix:///{DIR}", "/{DIR}"),
        ("unix:///${Program Files (x86)}", "/C"),
        ("unix:///${NESTED}", "/${DIR}"),
    ],
)
def test_variables_of_the_environment_are_put_in_once(
    load: Callable[..., Config], written: str, path: str
) -> None:
    """`${NAME}` is replaced, `$${` stands for itself, and what was put in is not looked at again."""
    config = load(
        f'[[forward]]\nname = "a"\nlisten = "{written}"\nconnect = "h:1"\n',
        **{"DIR": "run", "NESTED": "${DIR}", "Program Files (x86)": "C"},
    )
    assert config.forwards[0].listen == UnixEndpoint(path)


def test_the_emulator_lies_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dir` is taken from the directory of the file, wherever the process is, then and later."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.toml").write_text('[emulator]\ndir = "vms"\n' + FORWARD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("sub", "config.toml"), environ={}, machine_of=any_machine)
    assert config.emulator == EmulatorSettings(dir=str(tmp_path / "sub" / "vms"))
    assert config.emulator.partition == guid.HOST


def test_an_absolute_directory_of_the_emulator_is_kept(load: Callable[..., Config], tmp_path: Path) -> None:
    """A directory from the root is used as it is; the partition is read as a GUID is written anywhere."""
    config = load(
        f"[emulator]\ndir = '{tmp_path}'\npartition = '{{6A0C8E2E-1B1D-4C3E-8D5F-000000000001}}'\n"
        "enforce_registration = true\n" + FORWARD
    )
    assert config.emulator is not None
    assert config.emulator.dir == str(tmp_path)
    assert config.emulator.partition == UUID("6a0c8e2e-1b1d-4c3e-8d5f-000000000001")
    assert config.emulator.enforce_registration


def test_a_config_prints_as_it_could_be_written(load: Callable[..., Config]) -> None:
    """In JSON, a config shows endpoints, durations and sizes in the notation of the file."""
    text = load("[defaults]\nbuffer = 65536\nmax_lifetime = 90\n" + FORWARD).model_dump(
        mode="json", by_alias=True
    )
    (forward,) = text["forward"]
    assert forward["listen"] == "tcp://127.0.0.1:2222"
    assert (forward["buffer"], forward["max_lifetime"], forward["idle_timeout"]) == ("64KiB", "90s", "off")


def test_a_good_config_loads_no_parser_for_positions(tmp_path: Path) -> None:
    """Positions are looked for only once there is a fault."""
    (tmp_path / "config.toml").write_text(FORWARD, encoding="utf-8")
    program = (
        "import sys; from hvbridge.config import Machine, load_config;"
        "load_config(sys.argv[1], environ={}, machine_of=lambda _: Machine());"
        "print('tree_sitter' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "config.toml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_services_are_called_as_the_machine_calls_them(tmp_path: Path) -> None:
    """A service's name is looked up in the registry of the machine, and a program that reads the plan sees it."""
    web = Service(UUID(int=7), "web")

    class Registry:
        def services(self) -> list[Service]:
            return [web]

    path = tmp_path / "config.toml"
    path.write_text(FORWARD.replace("parent/ssh", "parent/WEB"), encoding="utf-8")
    (forward,) = load_config(path, environ={}, machine_of=lambda _: Machine(Registry())).forwards
    assert forward.connect == HypervEndpoint(guid.PARENT, web.id)
    assert forward.model_dump(mode="json")["connect"] == "hyperv://parent/web"


TIMEOUTS = st.integers(1, 10**9).map(lambda ms: round(ms / 1000, 3)) | st.just(OFF)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "dial_timeout": TIMEOUTS,
    "idle_timeout": TIMEOUTS,
    "half_close_timeout": TIMEOUTS,
    "max_lifetime": TIMEOUTS,
    "wait": st.integers(1, 10**9).map(lambda ms: round(ms / 1000, 3)),
    "tcp_keepalive": st.integers(1, 32400).map(float) | st.just(OFF),
    "max_connections": st.integers(1, 10**6),
    "max_pending_dials": st.integers(1, 10**6),
    "when_full": st.sampled_from(["queue", "refuse"]),
    "rate": st.integers(1, 10**6).map(float) | st.just(OFF),
    "bandwidth": st.integers(1024, 1 << 40).map(float) | st.just(OFF),
    "proxy_protocol": st.sampled_from(["off", "v1", "v2"]),
    "backlog": st.integers(1, 65535),
    "buffer": st.integers(4096, 1 << 30) | st.none(),
    "expose": st.booleans(),
    "connect_mode": st.sampled_from(["auto", "nonblocking", "thread"]),
    "connected_suspend": st.booleans(),
}
SETTINGS = st.fixed_dictionaries({}, optional=VALUES)


def written(key: str, value: Any) -> str:
    """A setting as a line of TOML."""
    if key == "rate":
        text: Any = format_rate(value)
    elif key == "bandwidth":
        text = format_bandwidth(value)
    elif key == "buffer":
        text = "system" if value is None else format_size(value)
    else:
        text = format_duration(value) if isinstance(value, float) else value
    return f"{key} = {str(text).lower() if isinstance(text, bool) else repr(text)}\n"


@given(defaults=SETTINGS, own=st.lists(SETTINGS, min_size=1, max_size=3))
@settings(deadline=None)
def test_every_setting_arrives(
    load: Callable[..., Config], defaults: dict[str, Any], own: list[dict[str, Any]]
) -> None:
    """Each forward has its own value, else that of [defaults], else the built-in, whatever they are."""
    text = "[defaults]\n" + "".join(written(*item) for item in defaults.items())
    for index, forward in enumerate(own):
        text += f'[[forward]]\nname = "f{index}"\nlisten = "127.0.0.1:0"\nconnect = "vsock://3:{index}"\n'
        text += "".join(written(*item) for item in forward.items())
    config = load(text)
    for index, forward in enumerate(own):
        loaded = config.forwards[index]
        assert loaded.connect == VsockEndpoint(3, index)
        expected = Settings().model_dump() | defaults | forward
        assert {key: getattr(loaded, key) for key in expected} == expected


def test_the_property_test_covers_every_setting() -> None:
    """A setting that is added must be added to the property test, too."""
    with_rules = {"start", "idle_save", "allow", "accept_proxy", "health"}  # and tests of their own
    assert VALUES.keys() | with_rules == Settings.model_fields.keys()


def test_proxies_of_the_defaults_are_for_the_listeners_that_see_them(tmp_path: Path) -> None:
    """accept_proxy for all forwards is no fault of those that listen on something else than TCP."""
    file = tmp_path / "config.toml"
    file.write_text(
        '[defaults]\naccept_proxy = ["127.0.0.1"]\n'
        '[[forward]]\nname = "a"\nlisten = "unix:///run/a.sock"\nconnect = "127.0.0.1:22"\n'
    )
    assert load_config(file, environ={}, machine_of=lambda _: Machine()).forwards[0].accept_proxy
