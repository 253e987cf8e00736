"""The documentation says what is so.

Its configs load, its commands exist, its links lead somewhere, and the reference pages agree with the code. The
tutorial's first part is run, word for word.

In the pages, a TOML block after ``<!-- faulty -->`` must be refused.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from hvbridge.address.endpoint import EndpointError, parse_endpoint
from hvbridge.cli import errors
from hvbridge.cli.app import app
from hvbridge.config import Config, ConfigError, Machine, load_config
from hvbridge.splice import Reason
from hvbridge.transport.errors import Cause, DialError, ListenError, dial_cause

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
TUTORIAL = DOCS / "tutorial" / "ssh-into-a-vm-without-network.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

_FENCE = re.compile(r"(<!-- faulty -->\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by all the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


_COMMANDS = dict(_commands(typer.main.get_command(app)))


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    faulty: bool


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, text: str = "") -> list[Block]:
    found = _FENCE.findall(text or read(page))
    return [Block(page, language, body, bool(faulty)) for faulty, language, body in found]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def table(page: Path, *head: str) -> list[list[str]]:
    """The rows of the tables of a page that have this head."""
    rows: list[list[str]] = []
    previous: list[str] = []
    inside = False
    for line in read(page).splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("|--"):
            inside = previous == list(head)
        elif inside and cells:
            rows.append(cells)
        else:
            inside = False
        previous = cells
    assert rows, f"no table with the head {head}"
    return rows


def code(cell: str) -> str:
    assert cell.startswith("`"), cell
    assert cell.endswith("`"), cell
    return cell[1:-1]


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


# Configs.


def load(text: str, directory: Path, name: str = "config.toml") -> Config:
    """Load a config for a machine that can do everything and has every variable."""
    file = directory / name
    file.write_text(text, encoding="utf-8")
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "/run/user/1000")
    variables |= dict.fromkeys(re.findall(r"hyperv://\$\{(\w+)\}", text), str(uuid.uuid4()))
    return load_config(file, environ=variables, machine_of=lambda _: Machine())


@every_page
def test_configs_load(page: Path, tmp_path: Path) -> None:
    """Every TOML block is a config without a fault, and every one that is marked as faulty is refused."""
    for block in blocks(page):
        if block.language != "toml":
            continue
        tomllib.loads(block.text)
        if block.faulty:
            with pytest.raises(ConfigError):
                load(block.text, tmp_path)
        else:
            assert load(block.text, tmp_path).forwards


def test_shown_faults_are_the_ones_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of the command line shows what `hvbridge check` says about the config above it."""
    monkeypatch.chdir(tmp_path)
    cli = blocks(REFERENCE / "cli.md")
    (position,) = (index for index, block in enumerate(cli) if block.faulty)
    with pytest.raises(ConfigError) as raised:
        load(cli[position].text, Path(), "bad.toml")
    command, _, shown = cli[position + 1].text.partition("\n")
    assert command == "$ hvbridge check bad.toml"
    assert shown == f"{raised.value}\n"


# Commands.


def command_lines(page: Path) -> Iterator[str]:
    """What stands behind `hvbridge` wherever a page shows it as a command, up to the end of that command."""
    texts = re.findall(r"`(hvbridge [^`\n]+)`", read(page))
    for block in blocks(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            texts += [line[2:] for line in lines if line.startswith("$ ")]
        elif block.language in ("sh", "powershell", "sshconfig", "ini"):
            texts += lines
    for text in texts:
        for match in re.finditer(r"(?:^|[ /\\\"])hvbridge(?:\.exe)? ([^\"|;&>]+)", text):
            yield match[1]


@every_page
def test_commands_exist(page: Path) -> None:
    """Every command and every option that a page tells to type exists."""
    for line in command_lines(page):
        name, *arguments = shlex.split(line)
        if name in ("is", "COMMAND", "--version"):  # "hvbridge is ready", "hvbridge COMMAND --help"
            continue
        if name not in _COMMANDS and arguments:
            name, *arguments = f"{name} {arguments[0]}", *arguments[1:]
        assert name in _COMMANDS, line
        known = {option for parameter in _COMMANDS[name].params for option in parameter.opts} | {"--help"}
        used = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
        assert used <= known, line


def test_every_command_is_in_the_reference() -> None:
    """The page of the command line has each command, its help, and each of its options with default and help."""
    page = read(REFERENCE / "cli.md")
    rows = {option: rest for option, *rest in table(REFERENCE / "cli.md", "option", "default", "meaning")}
    expected: dict[str, list[str]] = {}
    for name, command in _COMMANDS.items():
        arguments = [
            p.metavar if p.required else f"[{p.metavar}]" for p in command.params if p.opts[0][0] != "-"
        ]
        assert f"## `{' '.join(['hvbridge', name, *arguments])}`\n\n{command.help.splitlines()[0]}\n" in page
        expected |= dict(option_row(parameter) for parameter in command.params if parameter.opts[0][0] == "-")
    own = {"`--version`", "`--install-completion`", "`--show-completion`"}
    assert rows.keys() - own == expected.keys()
    assert {option: rows[option] for option in expected} == expected


def option_row(parameter: Any) -> tuple[str, list[str]]:
    """The row that an option has in the reference."""
    name, help_text, default = ", ".join(parameter.opts), parameter.help, parameter.default
    if default is False:
        return f"`{name}`", ["", help_text]
    metavar = parameter.metavar or "|".join(type(default))  # type: ignore[arg-type]  # an enum
    shown = "" if default is None else f"`{getattr(default, 'value', default)}`"
    return f"`{name} {metavar}`", [shown, help_text]


# Links.


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every link within the project leads to a file, and to a heading where it names one."""
    text = _FENCE.sub("", read(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT.resolve()), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_leads_to_every_page() -> None:
    """No page of the documentation is missing in its index."""
    index = read(DOCS / "README.md")
    for page in DOCS.rglob("*.md"):
        if page != DOCS / "README.md":
            assert f"]({page.relative_to(DOCS).as_posix()})" in index


@every_page
def test_named_code_exists(page: Path) -> None:
    """A class or a function that a page names beside a file is in that file."""
    for row in re.findall(r"^\|.*\|$", read(page), re.MULTILINE):
        for names, file in re.findall(r"((?:`[\w.]+`(?:, )?)+) in \[`[\w./]+`\]\(([\w./]+\.py)\)", row):
            source = read((page.parent / file).resolve())
            for name in re.findall(r"[\w.]+", names):
                definition = rf"^\s*(?:async )?(?:def|class) {name.rpartition('.')[2]}\b"
                assert re.search(definition, source, re.MULTILINE), name


# Reference pages.


def test_closing_reasons_are_complete() -> None:
    """The page has every closing reason, in the order of the code, and no other."""
    reasons = [
        code(row[0])
        for row in table(REFERENCE / "closing-reasons.md", "reason", "meaning", "what to look at")
    ]
    assert reasons == [str(reason) for reason in Reason]


def test_exit_codes_are_complete() -> None:
    """The page has every exit code, and every command."""
    codes = [int(row[0]) for row in table(REFERENCE / "exit-codes.md", "code", "meaning")]
    assert codes == [errors.EXIT_OK, errors.EXIT_FAILURE, errors.EXIT_USAGE]
    commands = [code(row[0]) for row in table(REFERENCE / "exit-codes.md", "command", "0", "1", "2")]
    assert commands == [f"hvbridge {name}" for name in _COMMANDS]


def test_causes_are_complete() -> None:
    """The page of errors has every cause, in the order of the code, and no other."""
    causes = [row[0] for row in table(REFERENCE / "errors.md", "cause", "meaning")]
    assert causes == [str(cause) for cause in Cause]


_EXAMPLES = (
    "hyperv://parent/ssh",
    "vsock://host:22",
    "tcp://127.0.0.1:22",
    "unix:///run/app.sock",
    "systemd://ssh",
)


def test_next_steps_are_the_ones_that_are_told() -> None:
    """The page of errors has the advice of every message, word for word, and no other."""
    written = table(REFERENCE / "errors.md", "endpoint", "operation", "cause", "next step")
    told = []
    for error in (DialError, ListenError):
        for endpoint in map(parse_endpoint, _EXAMPLES):
            for cause, advice in error.advice_table[type(endpoint)].items():
                scheme = str(endpoint).partition("://")[0]
                told.append([f"`{scheme}://`", error.operation, str(cause), advice])
    assert written == told


def test_windows_error_numbers_lead_to_their_causes() -> None:
    """Each error number on the page is classified as the page says."""
    for number, _, cause in table(REFERENCE / "errors.md", "number", "name", "cause"):
        assert dial_cause(parse_endpoint("hyperv://parent/ssh"), OSError(int(number), "")) == cause


def test_endpoints_are_printed_and_refused_as_shown() -> None:
    """Each example on the page of endpoints has the canonical form, or the message, that stands beside it."""
    for written, printed in table(REFERENCE / "endpoints.md", "written", "canonical"):
        assert str(parse_endpoint(code(written))) == code(printed)
    for written, message in table(REFERENCE / "endpoints.md", "written", "message"):
        with pytest.raises(EndpointError) as raised:
            parse_endpoint(code(written))
        assert str(raised.value) == message


def test_architecture_has_every_layer() -> None:
    """The page of the architecture lists the layers in the order that the import contract has."""
    contract = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = [layer for row in contract for layer in row.split(" | ")]
    page = blocks(DOCS / "explanation" / "architecture.md")[0].text
    assert [line.split()[0] for line in page.splitlines()] == layers


# The tutorial.


@pytest.mark.skipif(sys.platform == "win32", reason="the tutorial's first part is for a Unix shell")
@pytest.mark.skipif(
    shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is None, reason="no OpenSSH server here"
)
def test_the_tutorial_works_word_for_word(tmp_path: Path) -> None:
    """The shell blocks of the tutorial's first part, run in order with its files, give what it shows."""
    text = read(TUTORIAL)
    part = text[text.index("## Part 1") : text.index("## Part 2")]
    ports = {"2200": free_port(), "2222": free_port()}  # the tutorial's own may be taken on this machine
    part = re.sub(r"\b(2200|2222)\b", lambda port: str(ports[port[0]]), part)
    log = tmp_path / "output"
    script = ["set -e", "trap 'kill $(jobs -p) $(cat sshd.pid) 2>/dev/null || true' EXIT"]
    for block in blocks(TUTORIAL, part):
        if block.language in ("toml", "sshconfig"):
            file = block.text.partition("\n")[0].removeprefix("# ")
            (tmp_path / file).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            script.append(block.text)
            if started := block.text.count(" &\n"):  # a reader waits until they are ready, too
                script.append(f"until [ $(grep -c 'is ready' {log}) = {started} ]; do sleep 0.05; done")
    if sys.platform == "win32":
        raise NotImplementedError
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants of root, and Debian makes at boot
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HVBRIDGE_")}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=environ | {"PATH": path, "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            shell.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)
    said = read(log)
    assert shell.returncode == 0, said
    assert "\nhello from the VM\n" in said
    assert "\nhello again\n" in said
    assert read(tmp_path / "copy.toml") == read(tmp_path / "host.toml")
    failure = next(
        block.text for block in blocks(TUTORIAL, part) if block.text.startswith("hvbridge: cannot")
    )
    assert failure in said


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
