"""Declares the commands, their options and their help.

Owns: names, options and help texts. Refuses: doing anything (the other modules of this package do).
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="hvbridge",
    help="Forwards TCP ports into Hyper-V virtual machines over Hyper-V sockets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LogFormat(StrEnum):
    """How a log line looks."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important line that is still logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The TOML file that tells what to forward.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


def _version(wanted: bool) -> None:
    if wanted:
        from hvbridge import __version__

        typer.echo(f"hvbridge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Forwards TCP ports into Hyper-V virtual machines over Hyper-V sockets."""


@app.command()
def run(
    config: ConfigFile,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long open connections may live on after a stop.")
    ] = "10s",
    log_format: Annotated[
        LogFormat, typer.Option(help="Log lines for people, or one JSON object a line.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(help="The least important line that is logged.")
    ] = LogLevel.INFO,
) -> None:
    """Run every forward of CONFIG until Ctrl-C or SIGTERM.

    A second signal ends at once. Exit codes: 0 drained, 1 runtime failure, 2 bad usage or config.
    """
    from hvbridge.commands.run import run

    raise typer.Exit(run(config, grace=grace, log_format=log_format.value, log_level=log_level.value))


@app.command()
def check(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check CONFIG: print every fault and exit with 2, or print what `run` would do."""
    from hvbridge.commands.check import check

    raise typer.Exit(check(config, as_json=as_json))


@app.command()
def connect(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Such as hyperv://VM/ssh or tcp://HOST:PORT.")
    ],
    dial_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help='How long the dial may take, or "off".')
    ] = "10s",
    connect_mode: Annotated[
        str, typer.Option(metavar="auto|nonblocking|thread", help="How an AF_HYPERV socket connects.")
    ] = "auto",
) -> None:
    """Connect standard input and output to ENDPOINT, as ssh's ProxyCommand wants it.

    ssh -o ProxyCommand="hvbridge connect hyperv://VM/ssh" user@vm
    """
    from hvbridge.commands.connect import connect

    raise typer.Exit(connect(endpoint, dial_timeout=dial_timeout, connect_mode=connect_mode))


@app.command()
def guid(
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="[PORT|GUID|NAME]", help="A vsock port, a service GUID, or a well-known name."
        ),
    ] = None,
) -> None:
    """Translate a vsock port to its service GUID and back; without a value, make a fresh service GUID."""
    from hvbridge.commands.guid import guid

    raise typer.Exit(guid(value))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config, with which editors complete and check it."""
    import json

    from hvbridge.config import schema

    typer.echo(json.dumps(schema(), indent=2))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit when everything has been shown.")] = False,
) -> None:
    """Show the whole way, with nothing installed: an emulated VM, both bridges, and data through them."""
    from hvbridge.commands.demo import demo

    raise typer.Exit(demo(once=once))
