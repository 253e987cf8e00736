"""Every command as its users run it: what it prints, where, and how it ends."""

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from hvbridge import __version__

from .support import MODULE, ROOT, VM, Place, dial, environment, hvbridge, receive_all, run

SCRIPT = Path(sys.executable).with_name("hvbridge" + (".exe" if sys.platform == "win32" else ""))
COMMANDS = ("run", "check", "status", "top", "reload", "connect", "guid", "schema", "demo")
SSH = "00000016-facb-11e6-bd58-64006a7986d3"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(MODULE, id="module"),
        pytest.param(
            (SCRIPT,),
            id="script",
            marks=pytest.mark.skipif(
                not SCRIPT.exists(), reason="hvbridge is not installed beside this Python"
            ),
        ),
    ],
)
def test_script_and_module_are_the_same_program(command: Sequence[object]) -> None:
    """`hvbridge` and `python -m hvbridge` answer alike, and call themselves hvbridge."""
    assert run(*command, "--version").stdout.split() == [b"hvbridge", __version__.encode()]
    failed = run(*command, "guid", "--frobnicate")
    assert failed.returncode == 2
    assert b"Usage: hvbridge guid" in failed.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    """--help says what a command does, on standard output."""
    done = hvbridge(command, "--help")
    assert done.returncode == 0
    assert f"Usage: hvbridge {command}" in done.stdout.decode()
    assert done.stderr == b""


def test_help_names_every_command() -> None:
    """Without a command, hvbridge tells which there are."""
    shown = hvbridge("--help").stdout.decode()
    assert [command for command in COMMANDS if f" {command} " not in shown] == []


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("hvbridge c", ["check", "connect"]),
        ("hvbridge run --l", ["--log-format", "--log-level"]),
        ("hvbridge run --log-level ", ["debug", "info", "warning", "error"]),
    ],
)
def test_shell_completes(words: str, completions: list[str]) -> None:
    """The shell, which asks hvbridge itself, is told commands, options and values."""
    position = str(words.count(" "))
    asking = {"_HVBRIDGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    assert hvbridge(environ=environment(**asking)).stdout.decode().split() == completions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_script_is_there(shell: str) -> None:
    """Each shell gets a script that makes it ask."""
    script = hvbridge(environ=environment(_HVBRIDGE_COMPLETE=f"source_{shell}")).stdout
    assert b"_HVBRIDGE_COMPLETE" in script
    assert f"complete_{shell}".encode() in script


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run"], 2, "Missing argument 'CONFIG'"),
        (["run", "no-such.toml"], 2, "no-such.toml: no such file"),
        (["run", "."], 2, "this is a directory"),
        (["run", "{broken}"], 2, "broken.toml:1:3: "),
        (["run", "{good}", "--grace", "soon"], 2, '"soon" is not a duration'),
        (["run", "{good}", "--log-level", "loud"], 2, "--log-level"),
        (["run", "{good}", "--log-format", "xml"], 2, "--log-format"),
        (["run", "{elsewhere}"], 1, 'forward "a": cannot listen on tcp://192.0.2.1:2222: '),
        (["check", "no-such.toml"], 2, "no-such.toml: no such file"),
        (["connect", "localhost"], 2, '"localhost" has no port'),
        (["connect", "hyperv://parent/sssh"], 2, "did you mean ssh?"),
        (["connect", f"hyperv://{VM}/ssh", "--dial-timeout", "soon"], 2, '"soon" is not a duration'),
        (["connect", "127.0.0.1:1", "--connect-mode", "magic"], 2, '"magic" is not a mode'),
        (["guid", "ss"], 2, '"ss" is not a service'),
        (["guid", str(uuid.UUID(int=1))], 2, "is not a GUID of the vsock template"),
        (["demo", "--twice"], 2, "--twice"),
        (["frobnicate"], 2, "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_mistakes_are_told_in_a_sentence(
    arguments: list[str], code: int, told: str, place: Place
) -> None:
    """A mistake gives a message on standard error and its exit code, and never a traceback."""
    configs = {
        "broken": place.directory / "broken.toml",
        "good": place.config(
            {"name": "a", "listen": "127.0.0.1:0", "connect": "127.0.0.1:1"}, partition=None
        ),
        "elsewhere": place.config(
            {"name": "a", "listen": "192.0.2.1:2222", "connect": "127.0.0.1:1", "expose": True},
            partition=None,
        ),
    }
    configs["broken"].write_text("[[[")
    done = hvbridge(*(argument.format(**configs) for argument in arguments))
    assert done.returncode == code
    # Usage errors stand in a box, which breaks lines.
    assert told in " ".join(done.stderr.decode().replace("│", " ").split())
    assert done.stdout == b""


def test_check_tells_every_fault(place: Place) -> None:
    """`check` prints all faults of a file, each with its position, and exits with 2; --json has the same."""
    config = place.config(
        {"name": "a", "listen": "127.0.0.1:2222", "conect": "127.0.0.1:22"},
        {"name": "a", "listen": "hyperv://broadcast/ssh", "connect": "127.0.0.1:99999"},
    )
    done = hvbridge("check", config)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert [line.removeprefix(str(config)).split(": ")[:3] for line in lines] == [
        [":5:1", 'forward "a"', "connect"],
        [":8:1", 'forward "a"', "conect"],
        [":11:8", 'forward "a"', "name"],
        [":12:10", 'forward "a"', "listen"],
        [":13:11", 'forward "a"', "connect"],
    ]
    done = hvbridge("check", config, "--json")
    assert (done.returncode, done.stderr) == (2, b"")
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    told = ["{file}:{line}:{column}: {where}: {message}".format_map(fault) for fault in answer["faults"]]
    assert told == lines


def test_check_shows_the_plan(place: Place) -> None:
    """`check` shows each forward of a sound file, whole and canonical, with its limits; --json has all."""
    listen = "hyperv://parent/{0000006F-FACB-11E6-BD58-64006A7986D3}"
    config = place.config(
        {"name": "a", "listen": "127.0.0.1:2222", "connect": f"hyperv://{VM}/ssh"},
        {"name": "b", "listen": "[::1]:2222", "connect": f"hyperv://{VM}/{VM}", "idle_timeout": "90m"},
    )
    guest = place.config({"name": "c", "listen": listen, "connect": "localhost:22"}, partition=VM)
    done = hvbridge("check", config)
    assert (done.returncode, done.stderr) == (0, b"")
    _, first, second = done.stdout.decode().splitlines()
    forwarding = ["a", "tcp://127.0.0.1:2222", "→", f"hyperv://{VM}/ssh"]
    assert first.split() == [*forwarding, "1024", "connections,", "dial", "10s"]
    assert f"hyperv://{VM}/{VM}" in second
    assert "idle 90m" in second
    assert "hyperv://parent/111 " in hvbridge("check", guest).stdout.decode()
    answer = json.loads(hvbridge("check", config, "--json").stdout)
    assert answer["ok"] is True
    plan = answer["forwards"][1]
    assert (plan["connect"], plan["idle_timeout"], plan["max_lifetime"]) == (
        f"hyperv://{VM}/{VM}", "90m", "off",
    )  # fmt: skip


def test_plan_can_be_printed_in_any_encoding(place: Place) -> None:
    """A plan goes into a file or a pipe whose encoding has no arrows, as Windows' code pages have none."""
    config = place.config(
        {"name": "a", "listen": "127.0.0.1:2222", "connect": "127.0.0.1:22"}, partition=None
    )
    done = hvbridge("check", config, environ=environment(PYTHONIOENCODING="cp1252"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"tcp://127.0.0.1:2222  ->  tcp://127.0.0.1:22" in done.stdout


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("22", SSH),
        ("ssh", SSH),
        ("XRDP", "00000d3d-facb-11e6-bd58-64006a7986d3"),
        (SSH, "22"),
        ("{00000D3D-FACB-11E6-BD58-64006A7986D3}", "3389"),
        ("2147483647", "7fffffff-facb-11e6-bd58-64006a7986d3"),
    ],
)
def test_guid_translates(asked: str, answer: str) -> None:
    """A port or a name gives its service GUID, a GUID of the template its port."""
    assert hvbridge("guid", asked).stdout.decode().split() == [answer]


def test_guid_makes_fresh_ones() -> None:
    """Without a value each call makes a random GUID."""
    first, second = (uuid.UUID(hvbridge("guid").stdout.decode().strip()) for _ in range(2))
    assert first != second
    assert first.version == second.version == 4


def test_schema_is_the_one_that_is_shipped() -> None:
    """`schema` prints JSON Schema, the same that configs/ holds for editors."""
    done = hvbridge("schema")
    assert json.loads(done.stdout)["$schema"].startswith("https://json-schema.org/")
    assert json.loads((ROOT / "configs" / "hvbridge.schema.json").read_text()) == json.loads(done.stdout)


def test_demo_proves_itself() -> None:
    """`demo --once` carries a page and 256 MiB through both bridges, says so, and exits with 0."""
    program: Sequence[object] = MODULE
    size = 256
    if "HVSHIM_DIR" in os.environ:  # under Wine that takes a minute, and an eighth shows as much
        size = 32
        change = f"import hvbridge.cli.demo as demo; demo.BULK = {size << 20}"
        program = (sys.executable, "-c", f"{change}; from hvbridge.__main__ import main; main()")
    done = run(*program, "demo", "--once")
    assert b"Traceback" not in done.stderr
    shown = " ".join(done.stderr.decode().split())
    assert done.returncode == 0, shown
    assert shown.count("hvbridge is ready") == 2
    assert "says “This page came out of a VM that has no network.”" in shown
    assert "identical on both ends" in shown
    assert re.search(rf"{size} MiB each way in [\d.]+ s, \d+ MiB/s", shown)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process alone on Windows")
def test_demo_ends_with_ctrl_c(place: Place) -> None:
    """`demo` stays up to be tried, and Ctrl-C ends it cleanly."""
    demo = place.program(*MODULE, "demo")
    url = demo.expect_line("The demo keeps running: try").split("http://")[1].split("/")[0]
    with dial(int(url.partition(":")[2])) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"<h1>" in receive_all(client)
    demo.signal(signal.SIGINT)
    assert demo.wait() == 0
