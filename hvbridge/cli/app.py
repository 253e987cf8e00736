"""The commands, their options and their help. Each command's work is in a module of its own."""

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
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The TOML file that says what to forward.")
]
OptionalConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The config with the forwards; hvbridge.toml by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
RunningConfig = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The config of the running bridge; hvbridge.toml by default."),
]
AdminUrl = Annotated[
    str | None,
    typer.Option("--admin", metavar="URL", help="The admin endpoint to query, instead of the one in CONFIG."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The file with the endpoint's token."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from hvbridge import __version__

        typer.echo(f"hvbridge {__version__}")
        raise typer.Exit


class ExportForm(StrEnum):
    """The format of an exported registration."""

    REG = "reg"
    POWERSHELL = "powershell"


class ServiceUser(StrEnum):
    """The account that a Windows service runs as."""

    VIRTUAL = "virtual"
    LOCAL_SERVICE = "LocalService"
    LOCAL_SYSTEM = "LocalSystem"


ServiceName = Annotated[str, typer.Option(metavar="NAME", help="The name of the Windows service.")]
Grace = Annotated[
    str, typer.Option(metavar="DURATION", help="How long open connections may continue after a stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Export = Annotated[
    ExportForm | None,
    typer.Option(
        metavar="reg|powershell",
        help="Print a .reg file or a PowerShell script that makes the change, and do nothing else.",
    ),
]


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
    grace: Grace = "10s",
    log_format: Annotated[
        LogFormat, typer.Option(help="Readable log lines, or one JSON object per line.")
    ] = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option(help="The lowest level that is logged.")] = LogLevel.INFO,
    watch: Annotated[
        bool, typer.Option("--watch", help="Reload CONFIG whenever it changes, as on SIGHUP.")
    ] = False,
    exit_idle: Annotated[
        str, typer.Option(metavar="DURATION", help="Exit after this long without a connection.")
    ] = "off",
) -> None:
    """Run every forward in CONFIG until Ctrl-C or SIGTERM; SIGHUP reloads CONFIG.

    A second signal exits at once. Exit codes: 0 drained, 1 runtime failure, 2 bad usage or config.
    """
    from hvbridge.cli.run import run

    code = run(
        config,
        grace=grace,
        log_format=log_format.value,
        log_level=log_level.value,
        watch=watch,
        exit_idle=exit_idle,
    )
    raise typer.Exit(code)


@app.command()
def check(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check CONFIG: print every fault and exit with 2, or print what `run` would do."""
    from hvbridge.cli.check import check

    raise typer.Exit(check(config, as_json=as_json))


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG", help="The config whose forwards are checked; without it, only the machine is."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Diagnose this machine, and CONFIG on it, and say what to do."""
    from hvbridge.cli.doctor import doctor

    raise typer.Exit(doctor(config, as_json=as_json))


@app.command()
def status(
    config: RunningConfig = Path("hvbridge.toml"),
    admin: AdminUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the forwards of a running bridge: upstreams, connections and totals."""
    from hvbridge.cli.status import status

    raise typer.Exit(status(config, admin=admin, token_file=token_file, as_json=as_json))


@app.command()
def top(
    config: RunningConfig = Path("hvbridge.toml"), admin: AdminUrl = None, token_file: TokenFile = None
) -> None:
    """Watch a running bridge in the terminal: throughput, busiest connections, recent closings."""
    from hvbridge.cli.top import top

    raise typer.Exit(top(config, admin=admin, token_file=token_file))


@app.command(name="reload")
def reload_config(
    config: RunningConfig = Path("hvbridge.toml"), admin: AdminUrl = None, token_file: TokenFile = None
) -> None:
    """Make a running bridge reload its config, and print what changed."""
    from hvbridge.cli.reload import reload

    raise typer.Exit(reload(config, admin=admin, token_file=token_file))


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
    """Connect standard input and output to ENDPOINT, for ssh's ProxyCommand.

    ssh -o ProxyCommand="hvbridge connect hyperv://VM/ssh" user@vm
    """
    from hvbridge.cli.connect import connect

    raise typer.Exit(connect(endpoint, dial_timeout=dial_timeout, connect_mode=connect_mode))


@app.command(name="ssh-config")
def ssh_config(
    config: OptionalConfigFile = Path("hvbridge.toml"),
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Write the blocks to ~/.ssh/hvbridge.conf, and include it in ~/.ssh/config."
        ),
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Undo --install.")] = False,
) -> None:
    """Print an ssh_config Host block for each forward of CONFIG that leads to an SSH server."""
    from hvbridge.cli.ssh_config import ssh_config

    raise typer.Exit(ssh_config(config, install=install, uninstall=uninstall))


@app.command()
def rdp(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The forward to open.")],
    config: OptionalConfigFile = Path("hvbridge.toml"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The file to write; NAME.rdp by default."),
    ] = None,
) -> None:
    """Write a .rdp file that opens the forward NAME of CONFIG in the Remote Desktop client."""
    from hvbridge.cli.rdp import rdp

    raise typer.Exit(rdp(name, config, output=output))


@app.command()
def vms(as_json: AsJson = False) -> None:
    """List the VMs of this host: name, id and state."""
    from hvbridge.cli.vms import vms

    raise typer.Exit(vms(as_json=as_json))


services = typer.Typer(
    name="services",
    help="List, register and unregister the services that Hyper-V sockets may use on this host.",
    no_args_is_help=True,
)
app.add_typer(services)


@services.command(name="list")
def services_list(as_json: AsJson = False) -> None:
    """List the registered services: name, id and vsock port."""
    from hvbridge.cli.services import list_services

    raise typer.Exit(list_services(as_json=as_json))


@services.command(name="register")
def services_register(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The name of the service; ssh and xrdp have well-known ids."),
    ] = None,
    service_id: Annotated[
        str | None,
        typer.Option("--id", metavar="GUID", help="The service id; a new random one by default."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="The vsock port to derive the service id from.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--from", metavar="CONFIG", help="Register every service that CONFIG needs."),
    ] = None,
    dry_run: DryRun = False,
    export: Export = None,
) -> None:
    """Register the service NAME, or every service that a config needs, on this host.

    Requires an administrator, once; `hvbridge run` does not.
    """
    from hvbridge.cli.services import register, register_config

    form = None if export is None else export.value
    if config is not None and (name, service_id, port) == (None, None, None):
        raise typer.Exit(register_config(config, dry_run=dry_run, export=form))
    if config is not None or name is None:
        raise typer.BadParameter("write either NAME, optionally with --id or --port, or --from CONFIG")
    raise typer.Exit(register(name, service_id=service_id, port=port, dry_run=dry_run, export=form))


@services.command(name="unregister")
def services_unregister(
    which: Annotated[str, typer.Argument(metavar="NAME|GUID", help="The service to remove.")],
    dry_run: DryRun = False,
    export: Export = None,
) -> None:
    """Unregister a service on this host."""
    from hvbridge.cli.services import unregister

    raise typer.Exit(unregister(which, dry_run=dry_run, export=None if export is None else export.value))


service = typer.Typer(
    name="service",
    help="Run a config as a Windows service that starts at boot.",
    no_args_is_help=True,
)
app.add_typer(service)


@service.command(name="install")
def service_install(
    config: ConfigFile,
    name: ServiceName = "hvbridge",
    user: Annotated[
        ServiceUser,
        typer.Option(
            help="The account to run as; virtual is an account for this service alone, with few rights."
        ),
    ] = ServiceUser.VIRTUAL,
    grace: Grace = "10s",
) -> None:
    """Install a Windows service that runs CONFIG at boot, and restarts after a failure.

    Requires an administrator. Does not start the service; the last line of the output says how.
    """
    from hvbridge.cli.service import install

    raise typer.Exit(install(config, name=name, user=user.value, grace=grace))


@service.command(name="uninstall")
def service_uninstall(name: ServiceName = "hvbridge") -> None:
    """Drain the Windows service, stop it, and remove it.

    Requires an administrator.
    """
    from hvbridge.cli.service import uninstall

    raise typer.Exit(uninstall(name=name))


@service.command(name="status")
def service_status(name: ServiceName = "hvbridge") -> None:
    """Show whether the Windows service is installed and running, and under which account."""
    from hvbridge.cli.service import status

    raise typer.Exit(status(name=name))


@service.command(name="run", hidden=True)
def service_run(config: ConfigFile, grace: Grace = "10s") -> None:
    """Run as the process of the Windows service, which only Windows can start."""
    from hvbridge.cli.service import run

    raise typer.Exit(run(config, grace=grace))


@app.command()
def guid(
    value: Annotated[
        str | None,
        typer.Argument(metavar="PORT|GUID|NAME", help="A vsock port, a service GUID, or a service name."),
    ] = None,
) -> None:
    """Convert a vsock port to its service GUID or back; without a value, generate a new service GUID."""
    from hvbridge.cli.guid import guid

    raise typer.Exit(guid(value))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config, for completion and checks in editors."""
    import json

    from hvbridge.config import schema

    typer.echo(json.dumps(schema(), indent=2))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit when the demo is complete.")] = False,
) -> None:
    """Demonstrate hvbridge without Hyper-V: an emulated VM, two bridges, and data through them."""
    from hvbridge.cli.demo import demo

    raise typer.Exit(demo(once=once))
