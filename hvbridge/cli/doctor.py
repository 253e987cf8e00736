"""`hvbridge doctor`: runs the checks of `hvbridge.doctor` and prints their findings."""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import trio
import typer
from rich.console import Console
from rich.text import Text

from hvbridge.app.build import build_network
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, print_error, print_faults
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.cli.program import command_line
from hvbridge.config import Config, ConfigError, Forward
from hvbridge.doctor import Finding, State
from hvbridge.doctor.checklist import Target, examine
from hvbridge.doctor.probe import Machine
from hvbridge.text import escaped

_MARKS = {
    State.OK: ("✓", "+", "green"),
    State.FAILED: ("✗", "x", "bold red"),
    State.DOUBTFUL: ("!", "!", "bold yellow"),
    State.NOT_APPLICABLE: ("–", "-", "dim"),  # noqa: RUF001
}
"""For each state: a mark, its ASCII fallback, and a style."""
_ARROWS = ("→", "->")
_NARROWEST = 24
_UNWRAPPED = 1000
"""Columns if the output is not a terminal: lines are not wrapped, so that a search finds them."""


def doctor(path: Path | None, *, as_json: bool) -> int:
    """Check this machine, and the config at ``path`` if there is one; return the exit code."""
    try:
        config = None if path is None else load_for_any_machine(path)
        target = _target(path, config)
    except ConfigError as error:
        print_faults(error)
        return EXIT_USAGE
    except ValueError as error:
        print_error(error)
        return EXIT_USAGE
    findings: list[Finding] | None = None
    try:
        with Console(stderr=True).status("Checking …"):
            findings = trio.run(examine, target, Machine())
    except* KeyboardInterrupt:  # bare or, out of a nursery, in a group
        pass
    if findings is None:
        return EXIT_FAILURE
    ok = all(finding.state is not State.FAILED for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "checks": list(map(_for_programs, findings))}, indent=2))
    else:
        show(findings, target.forwards, Console())
    return EXIT_OK if ok else EXIT_FAILURE


def show(findings: Sequence[Finding], forwards: Sequence[Forward], console: Console) -> None:
    """Print the findings: the machine, then each forward."""
    arrow = _ARROWS[console.options.ascii_only]
    titles = {"": Text("this machine", "bold")} | {
        forward.name: Text.assemble((forward.name, "bold"), f"  {forward.listen} {arrow} {forward.connect}")
        for forward in forwards
    }
    for name, group in groupby(findings, key=lambda finding: finding.forward):
        console.print(titles[name], soft_wrap=True)
        for finding in group:
            _show_finding(finding, console)
        console.print()
    console.print(_summary(findings))


def _show_finding(finding: Finding, console: Console) -> None:
    mark, plain_mark, style = _MARKS[finding.state]
    arrow = _ARROWS[console.options.ascii_only]
    text = Text(escaped(finding.summary), "dim" if finding.state is State.NOT_APPLICABLE else "")
    if finding.advice:
        text.append(f"\n{arrow} {escaped(finding.advice)}", "dim")
    columns = console.width if console.is_terminal else _UNWRAPPED
    first = Text.assemble(
        (plain_mark if console.options.ascii_only else mark, style), f" {finding.check:12} "
    )
    for number, line in enumerate(text.wrap(console, max(_NARROWEST, columns - len(first)))):
        start = first if number == 0 else Text(" " * len(first))
        line.rstrip()
        console.print(start + line, soft_wrap=True)


def _summary(findings: Sequence[Finding]) -> Text:
    failed, doubtful = (
        sum(finding.state is state for finding in findings) for state in (State.FAILED, State.DOUBTFUL)
    )
    if failed:
        text = Text(f"{failed} {'check' if failed == 1 else 'checks'} failed", "bold red")
    else:
        text = Text("Nothing failed", "bold green")
    return text + Text(f", {doubtful} doubtful" if doubtful else "")


def _for_programs(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "forward": finding.forward or None,
        "state": finding.state,
        "summary": finding.summary,
        "said": finding.summary,  # the old name of "summary", deprecated
        "advice": finding.advice or None,
    }


def _target(path: Path | None, config: Config | None) -> Target:
    """What to check. Raises ValueError for an invalid partition in the environment."""
    settings = None if config is None else config.emulator
    network = build_network(settings, os.environ)
    emulator = settings.dir if settings else os.environ.get("HVBRIDGE_EMULATOR", "")
    must_register = settings.enforce_registration if settings else not emulator
    return Target(
        network,
        network.services if must_register else None,
        emulator,
        () if config is None else config.forwards,
        "" if path is None else command_line("services", "register", "--from", str(path.absolute())),
    )
