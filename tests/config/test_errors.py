"""Every way a config can be wrong, and exactly what the user is told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvbridge.address.endpoint import Endpoint, HypervEndpoint
from hvbridge.config import ConfigError, EmulatorSettings, Machine, load_config
from hvbridge.hyperv.guid import service_id_of_port
from hvbridge.hyperv.services import Service
from hvbridge.text import Problem

ENVIRON = {"SSH_PORT": "2222"}


def any_machine(_emulator: EmulatorSettings | None) -> Machine:
    """A machine that can do everything."""
    return Machine()


def load(
    text: str | bytes, machine_of: Callable[[EmulatorSettings | None], Machine] = any_machine
) -> list[str]:
    """Load a `config.toml` with this text; return its faults as the user sees them."""
    Path("config.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        load_config("config.toml", environ=ENVIRON, machine_of=machine_of)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def forward(
    more: str = "",
    *,
    name: str = '"ssh"',
    listen: str = '"127.0.0.1:2222"',
    connect: str = '"hyperv://parent/ssh"',
) -> str:
    """A forward in TOML: its header, name, listen, connect, and whatever more, a line each."""
    return f"[[forward]]\nname = {name}\nlisten = {listen}\nconnect = {connect}\n{more}\n"


SECOND = '[[forward]]\nname = "rdp"\nlisten = {listen}\nconnect = "hyperv://parent/xrdp"\n'

TABLE = Path(__file__).with_name("faulty-configs.txt").read_text(encoding="utf-8")
"""Configs, each with what the user is told: the config, a line of `---`, the lines told, a line of `===`."""

UNPRINTABLE: list[tuple[bytes, str]] = [
    (
        b"",
        "1:1: forward: the config has no forward; write [[forward]] and, below it, name, listen and connect",
    ),
    (
        b"# later",
        "1:1: forward: the config has no forward; write [[forward]] and, below it, name, listen and connect",
    ),
    ('# grüße\nx = "'.encode() + b'\xff"', "2:6: this byte is not UTF-8; save the file as UTF-8"),
    (b'\xef\xbb\xbfx = "\xff"', "1:6: this byte is not UTF-8; save the file as UTF-8"),
    (
        "[[forward]]".encode("utf-16"),
        "1:1: the file is in UTF-16, as Windows PowerShell writes it; save it as UTF-8",
    ),
    (b'x = "\x07"', "1:6: unexpected control character; delete it"),
    (b"x = " + b"1" * 5000, "1:1: a number has thousands of digits; write a shorter one"),
    (
        b"x = " + b"[" * 2000,
        "1:1: lists or tables are nested too deeply; write what the config reference shows",
    ),
]


@pytest.mark.parametrize(
    "case", TABLE.split("===\n"), ids=lambda case: case.partition("---\n")[2].splitlines()[0]
)
def test_each_fault_has_its_exact_message(case: str) -> None:
    """A faulty config is answered with all that is wrong: position, place, what it is, and what to write."""
    text, _, told = case.partition("---\n")
    assert load(text) == told.splitlines()


@pytest.mark.parametrize(("text", "told"), UNPRINTABLE)
def test_a_file_that_is_no_text_is_told(text: bytes, told: str) -> None:
    """Wrong encodings, control characters and absurd sizes end in a message, too."""
    assert load(text) == [f"config.toml:{told}"]


def test_a_good_config_has_no_fault() -> None:
    """What the table's configs are made from is faultless, so that each row shows one change."""
    assert load(forward("expose = true", listen='"127.0.0.1:${SSH_PORT}"')) == []


def test_ports_that_the_system_picks_do_not_collide() -> None:
    """Any number of forwards may listen on port 0, and on one port of different addresses."""
    assert load(forward(listen='"127.0.0.1:0"') + SECOND.format(listen='"127.0.0.1:0"')) == []
    assert load(forward(listen='"127.0.0.1:22"') + SECOND.format(listen='"[::1]:22"')) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "[::ffff:127.0.0.1]"])
def test_loopback_listeners_need_no_leave(host: str) -> None:
    """Every form of a loopback address may be listened on without `expose`."""
    assert load(forward(listen=f'"{host}:2222"')) == []


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "10.0.0.1", "[fe80::1]", "box.example", "[::ffff:10.0.0.1]"]
)
def test_other_listeners_need_expose(host: str) -> None:
    """Any other address is refused until `expose = true` says that it is meant, for one or for all."""
    assert len(load(forward(listen=f'"{host}:2222"'))) == 1
    assert load(forward("expose = true", listen=f'"{host}:2222"')) == []
    assert load("[defaults]\nexpose = true\n" + forward(listen=f'"{host}:2222"')) == []


def test_what_the_machine_cannot_do_is_told_with_its_position() -> None:
    """The caller's judgement of an endpoint becomes a fault like any other."""

    def guest_only(endpoint: Endpoint, role: str) -> Problem | None:
        return Problem(f"no {role} here", "write another") if isinstance(endpoint, HypervEndpoint) else None

    assert load(forward(listen='"hyperv://parent/22"'), lambda _: Machine(fault=guest_only)) == [
        'config.toml:3:10: forward "ssh": listen: no listen here; write another',
        'config.toml:4:11: forward "ssh": connect: no connect here; write another',
    ]


def test_a_path_has_no_unprintable_characters() -> None:
    """It would begin a line, or move the cursor, wherever it is written."""
    [fault] = load('[emulator]\ndir = "a\\nb"\n' + forward())
    assert "is not a path" in fault


def test_the_machine_is_judged_by_the_emulator_of_the_file() -> None:
    """The machine is told by the [emulator] table, or None without one, and is left alone while that is faulty."""
    seen: list[EmulatorSettings | None] = []

    def machine_of(emulator: EmulatorSettings | None) -> Machine:
        seen.append(emulator)
        return Machine()

    assert load(forward(), machine_of) == []
    assert load('[emulator]\ndir = "e"\n' + forward(), machine_of) == []
    assert len(load("[emulator]\ndir = 3\n" + forward(), machine_of)) == 1
    assert [emulator and emulator.dir for emulator in seen] == [None, str(Path("e").absolute())]


def test_a_name_cannot_be_looked_up_while_the_emulator_is_faulty() -> None:
    """Which services there are, [emulator] tells; while that is faulty, a name is in doubt, and an id is not."""
    emulator = "[emulator]\ndir = 3\n"
    assert len(load(emulator + forward())) == 1
    dir_fault, name_fault = load(emulator + forward(connect='"hyperv://parent/web"'))
    assert dir_fault.startswith("config.toml:2:7: emulator: dir: ")
    assert name_fault == (
        'config.toml:6:11: forward "ssh": connect: the service "web" cannot be looked up: [emulator] has faults; '
        "fix that, or write a GUID, a vsock port, ssh or xrdp"
    )


def test_a_service_by_name_and_by_id_is_one_service() -> None:
    """Two listeners collide on one service, whatever each calls it."""

    class Registry:
        def services(self) -> list[Service]:
            return [Service(service_id_of_port(80), "web")]

    text = forward(listen='"hyperv://parent/80"') + SECOND.format(listen='"hyperv://parent/web"')
    assert load(text, lambda _: Machine(Registry())) == [
        (
            'config.toml:8:10: forward "rdp": listen: forward "ssh" already listens on hyperv://parent/80; '
            "write another address"
        )
    ]


def test_a_missing_file_is_named() -> None:
    """A file that is not there, and a directory, are told without a position."""
    with pytest.raises(ConfigError) as missing:
        load_config("absent.toml", environ={}, machine_of=any_machine)
    Path("configs").mkdir()
    with pytest.raises(ConfigError) as directory:
        load_config(Path("configs"), environ={}, machine_of=any_machine)
    assert str(missing.value) == "absent.toml: no such file; write the path of a config"
    assert str(directory.value) == "configs: this is a directory; write the path of a config in it"


@pytest.mark.parametrize("written", ["./config.toml", "sub/../config.toml", str(Path("sub") / "config.toml")])
def test_the_file_is_named_as_it_was_written(written: str) -> None:
    """Messages name the file as on the command line, and so that an editor finds it from there."""
    Path("sub").mkdir()
    Path(written).write_text("[[forward]]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(written, environ={}, machine_of=any_machine)
    assert {fault.file for fault in error.value.faults} == {written}
    assert str(error.value).startswith(f"{written}:1:1: forward #1: name: ")


def test_windows_line_ends_and_byte_order_mark_do_not_shift_positions() -> None:
    """A file saved by an editor on Windows has the same positions as any other."""
    text = forward("backlog = 0")
    assert load(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()) == load(text) != []
    broken = forward("backlog")
    assert load(b"\xef\xbb\xbf" + broken.replace("\n", "\r\n").encode()) == load(broken) != []


def test_control_characters_do_not_reach_the_terminal() -> None:
    """What a file holds is shown escaped and cut, on one line."""
    (line,) = load(forward(connect='"\\u001b[2J' + "x" * 500 + '"'))
    assert line.isprintable()
    assert len(line) < 250


def test_a_fault_in_a_text_that_only_tomli_reads_still_has_a_line() -> None:
    """TOML 1.1 lets a table in braces span lines; where it does, faults are told at least near it."""
    assert load('backlog = 1\nforward = [{\n  name = "x", listen = "y" }]\n') != []


KEYS = [
    "forward",
    "defaults",
    "emulator",
    "name",
    "listen",
    "connect",
    "dial_timeout",
    "buffer",
    "backlog",
    "dir",
]
KEYS += ["expose", "connect_mode", "partition", "x", "ü y", ""]
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
VALUES = st.recursive(
    st.booleans()
    | st.integers(-5, 70000)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | TEXT
    | st.sampled_from(
        ["127.0.0.1:2222", "0.0.0.0:0", "hyperv://parent/22", "hyperv://any/ssh", "10s", "off", "${X}"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4) | st.fixed_dictionaries(
    {"forward": st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), max_size=3)},
    optional={"defaults": VALUES, "emulator": VALUES},
)
PYDANTICS_WORDS = ("nput should", "ield required", "xtra inputs", "alid ", "pydantic")


@given(DOCUMENTS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_document_gets_anything_but_faults_of_ours(document: dict[str, Any]) -> None:
    """Whatever stands in a file, each fault has a position in it, says what to do, and is in our words."""
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    faults = load(text)
    for fault in faults:
        _, line, column, message = fault.split(":", 3)
        assert 1 <= int(line) <= text.count("\n") + 1
        assert int(column) >= 1
        assert ";" in message
        assert not any(word in message for word in PYDANTICS_WORDS)
    assert len(set(faults)) == len(faults)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@settings(deadline=None)
def test_a_position_is_where_its_value_begins(document: dict[str, Any]) -> None:
    """The position of every value of a document, at any depth, is where its text begins."""
    from hvbridge.config.positions import Positions

    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    lines = text.split("\n")
    positions = Positions(text)
    for path, value in walk((), document):
        line, column = positions.of_value(path)
        assert lines[line - 1][column - 1 :].startswith(toml(value))
        if isinstance(path[-1], str):
            line, column = positions.of_key(path)
            assert lines[line - 1][column - 1 :].startswith(toml(path[-1]))


def test_headers_dotted_keys_and_comments_have_positions() -> None:
    """Tables by header, tables in lists, dotted keys and quoted keys are found where they stand."""
    from hvbridge.config.positions import Positions

    positions = Positions(
        "a.b.c = 1  # one\n"
        "[t]\n"
        "# a comment\n"
        "'k k' = 2\n"
        "[[f]]\n"
        "[[f]]  # the second\n"
        '  "\\u006e" = [ 1, # so\n'
        "    { x = 3 } ]\n"
        "[f.sub]\n"
        "y = 4\n"
        "[[f.deep]]\n"
        "z = 5\n"
    )
    assert positions.of_value(("a", "b", "c")) == (1, 9)
    assert positions.of_key(("a", "b")) == (1, 1)
    assert positions.of_value(("t", "k k")) == (4, 9)
    assert positions.of_key(("t", "k k")) == (4, 1)
    assert positions.of_value(("f",)) == (5, 1)
    assert positions.of_value(("f", 1)) == (6, 1)
    assert positions.of_value(("f", 1, "n", 0)) == (7, 16)
    assert positions.of_value(("f", 1, "n", 1, "x")) == (8, 11)
    assert positions.of_key(("f", 1, "sub")) == (9, 1)
    assert positions.of_value(("f", 1, "sub", "y")) == (10, 5)
    assert positions.of_value(("f", 1, "deep", 0, "z")) == (12, 5)
    assert positions.of_value(("f", 0, "missing")) == (5, 1)
    assert positions.of_value(("nothing",)) == (1, 1)


def toml(value: Any) -> str:
    """A value in TOML, on one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


def walk(path: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value in a document with its path, the document itself left out."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from walk((*path, key), item)
