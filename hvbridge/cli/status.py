"""`hvbridge status`: shows the state of a running bridge."""

import json
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from hvbridge.admin.schemas import ForwardView, Status
from hvbridge.cli.admin_client import AdminClient, with_admin
from hvbridge.cli.errors import EXIT_OK
from hvbridge.cli.formatting import age, print_forwards, print_table, size
from hvbridge.text import escaped


def status(config: Path, *, admin: str | None, token_file: Path | None, as_json: bool) -> int:
    """Print the state of a bridge; return the exit code."""
    return with_admin(config, admin, token_file, _print_json if as_json else partial(_print, Console()))


def _print_json(client: AdminClient) -> int:
    bridge, forwards = client.get("/api/v1/status"), client.get("/api/v1/forwards")
    client.read(Status, bridge)
    client.read(list[ForwardView], forwards)
    typer.echo(json.dumps({**bridge, "forwards": forwards}, indent=2))
    return EXIT_OK


def _print(console: Console, client: AdminClient) -> int:
    bridge, forwards = client.status(), client.forwards()
    unready = {} if bridge.ready else client.unready()
    state = ("ready", "bold green") if bridge.ready else ("not ready", "bold red")
    started = bridge.started.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    console.print(
        Text.assemble(
            f"hvbridge {escaped(bridge.version)} is ",
            state,
            f", up {age(bridge.uptime_seconds)}, since {started}",
        )
    )
    if bridge.log_lines_dropped:
        console.print(Text(f"the log has lost {bridge.log_lines_dropped} lines", "yellow"))
    if bridge.event_failures:
        console.print(Text(f"{bridge.event_failures} events could not be handled; see the log", "yellow"))
    for name, why in unready.items():
        console.print(Text(f"{escaped(name)}: {escaped(why)}"), soft_wrap=True)
    print_forwards(
        console,
        ((f.name, f.listen, f.connect, f.state, _upstream(f)) for f in forwards),
        "state",
        "upstream",
    )
    console.print()
    print_table(
        console,
        ("forward", "connections", "accepted", "refused", "dial failed", "to upstream", "to client"),
        (
            (
                f.name,
                f"{f.connections} of {f.max_connections}",
                str(f.accepted),
                str(f.refused),
                str(f.dial_failed),
                size(f.client_to_upstream),
                size(f.upstream_to_client),
            )
            for f in forwards
        ),
    )
    return EXIT_OK


def _upstream(forward: ForwardView) -> str:
    return f"{forward.upstream}: {forward.upstream_cause}" if forward.upstream_cause else forward.upstream
