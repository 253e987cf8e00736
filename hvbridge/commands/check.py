"""`hvbridge check`, and reading a config for any command.

Owns: how a plan and how faults are shown.
"""

import json
import math
import os
from pathlib import Path

import typer
from rich.console import Console

from hvbridge import compose
from hvbridge.commands.console import EXIT_OK, EXIT_USAGE, complain
from hvbridge.commands.outcome import print_faults
from hvbridge.commands.tables import print_forwards
from hvbridge.config import Config, ConfigError, EmulatorSettings, Forward, Machine, load_config
from hvbridge.units import format_duration


def check(path: Path, *, as_json: bool) -> int:
    """Print the faults of the config at ``path``, or its plan; return the exit code."""
    try:
        config = load(path)
    except ConfigError as error:
        if as_json:
            faults = [
                {"file": fault.file, "line": fault.line, "column": fault.column, "where": fault.where}
                | {"message": fault.message}
                for fault in error.faults
            ]
            typer.echo(json.dumps({"ok": False, "faults": faults}, indent=2))
        else:
            print_faults(error)
        return EXIT_USAGE
    except ValueError as error:  # a partition in the environment that is none
        complain(error)
        return EXIT_USAGE
    if as_json:
        plan = [forward.model_dump(mode="json") for forward in config.forwards]
        typer.echo(json.dumps({"ok": True, "forwards": plan}, indent=2))
    else:
        print_forwards(Console(), map(_plan_row, config.forwards), "limits")
    return EXIT_OK


def load(path: Path) -> Config:
    """Load and check a config for this machine.

    Raises `ConfigError`; ValueError where the environment names a partition that is none, or where the admin endpoint
    lacks something.
    """
    config = load_config(path, environ=os.environ, machine_of=_machine_of)
    compose.check_admin(config.admin)
    return config


def load_for_any_machine(path: Path) -> Config:
    """Load a config for what can be told without this machine's sockets. Raises as `load`."""
    return load_config(
        path, environ=os.environ, machine_of=lambda table: Machine(_machine_of(table).services)
    )


def _machine_of(emulator: EmulatorSettings | None) -> Machine:
    network = compose.network_of(emulator, os.environ)
    return Machine(network.services, network.fault)


def _plan_row(forward: Forward) -> tuple[str, ...]:
    limits = [f"{forward.max_connections} connections", f"dial {format_duration(forward.dial_timeout)}"]
    for name, seconds in (("idle", forward.idle_timeout), ("lifetime", forward.max_lifetime)):
        if seconds != math.inf:
            limits.append(f"{name} {format_duration(seconds)}")
    return forward.name, str(forward.listen), str(forward.connect), ", ".join(limits)
