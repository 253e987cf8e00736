"""What others have named, a VM or a file, reaches a terminal escaped."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from hvbridge.cli.doctor import show
from hvbridge.cli.errors import print_error, print_faults
from hvbridge.cli.formatting import print_table
from hvbridge.cli.log_reporter import show_ready
from hvbridge.config import ConfigError, Machine, load_config
from hvbridge.doctor import Check, Finding, State
from hvbridge.proxy.events import BoundForward

HOSTILE = "box\x1b]0;title\x07\nforged"
HARMLESS = r"box\x1b]0;title\x07\nforged"


def test_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A cell stays on its line, and moves no cursor."""
    print_table(Console(), ("name",), [[HOSTILE]])
    assert capsys.readouterr().out.split("\n")[1:] == [HARMLESS, ""]


def test_a_forward_that_listens_on_two_addresses_has_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is escaped is what others have named, not the end of a line that is hvbridge's own."""
    show_ready([BoundForward("web", ["tcp://127.0.0.1:80", "tcp://[::1]:80"], HOSTILE)], Console())
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert HARMLESS in first
    assert second.strip() == "tcp://[::1]:80"


def test_in_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """What doctor found is one line, and its advice another."""
    show([Finding(Check.GUEST, State.FAILED, f"{HOSTILE} is off", f"start {HOSTILE}")], (), Console())
    lines = capsys.readouterr().out.splitlines()
    assert f"{HARMLESS} is off" in lines[1]
    assert f"start {HARMLESS}" in lines[2]


def test_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line."""
    print_error(f"cannot dial {HOSTILE}")
    assert capsys.readouterr().err == f"hvbridge: cannot dial {HARMLESS}\n"


def test_in_the_faults_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a fault, whatever the file and its keys are named."""
    file = tmp_path / ("b.toml" if sys.platform == "win32" else "a\nb.toml")  # Windows allows no such name
    file.write_text('"x\\u001b[2Jy" = 1\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={}, machine_of=lambda _: Machine())
    print_faults(caught.value)
    printed = capsys.readouterr().err
    assert printed.count("\n") == len(caught.value.faults)
    assert "\x1b" not in printed
