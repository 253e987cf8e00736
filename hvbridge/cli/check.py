"""`hvbridge check`: the faults of a config, or its plan."""

import json
import math
from pathlib import Path

import typer
from rich.console import Console

from hvbridge.cli.errors import EXIT_OK, EXIT_USAGE, print_error, print_faults
from hvbridge.cli.formatting import print_forwards
from hvbridge.cli.loading import load
from hvbridge.config import ConfigError, Forward
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
    except ValueError as error:  # such as an invalid partition in the environment
        print_error(error)
        return EXIT_USAGE
    if as_json:
        plan = [forward.model_dump(mode="json") for forward in config.forwards]
        typer.echo(json.dumps({"ok": True, "forwards": plan}, indent=2))
    else:
        print_forwards(Console(), map(_plan_row, config.forwards), "limits")
    return EXIT_OK


def _plan_row(forward: Forward) -> tuple[str, ...]:
    limits = [f"{forward.max_connections} connections", f"dial {format_duration(forward.dial_timeout)}"]
    for name, seconds in (("idle", forward.idle_timeout), ("lifetime", forward.max_lifetime)):
        if seconds != math.inf:
            limits.append(f"{name} {format_duration(seconds)}")
    return forward.name, str(forward.listen), str(forward.connect), ", ".join(limits)
