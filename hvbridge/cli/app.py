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
OptionalConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The config that has the forwards; hvbridge.toml by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
RunningConfig = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The config whose bridge is asked; hvbridge.toml by default."),
]
AdminUrl = Annotated[
    str | None,
    typer.Option("--admin", metavar="URL", help="The admin endpoint to ask, instead of the one in CONFIG."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The file with the token that the endpoint wants."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from hvbridge import __version__

        typer.echo(f"hvbridge {__version__}")
        raise typer.Exit


class ExportForm(StrEnum):
    """What a registration is written down as."""

    REG = "reg"
    POWERSHELL = "powershell"


class ServiceUser(StrEnum):
    """The account that a Windows service runs as."""

    VIRTUAL = "virtual"
    LOCAL_SERVICE = "LocalService"
    LOCAL_SYSTEM = "LocalSystem"


ServiceName = Annotated[str, typer.Option(metavar="NAME", help="What the Windows service is called.")]
Grace = Annotated[
    str, typer.Option(metavar="DURATION", help="How long open connections may live on after a stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")]
Export = Annotated[
    ExportForm | None,
    typer.Option(
        metavar="reg|powershell",
        help="Print a .reg file or a PowerShell script that does it, and do nothing.",
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
        LogFormat, typer.Option(help="Log lines for people, or one JSON object a line.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(help="The least important line that is logged.")
    ] = LogLevel.INFO,
    watch: Annotated[
        bool, typer.Option("--watch", help="Read CONFIG again whenever it changes, as at SIGHUP.")
    ] = False,
    exit_idle: Annotated[
        str, typer.Option(metavar="DURATION", help="End when nobody has been connected for so long.")
    ] = "off",
) -> None:
    """Run every forward of CONFIG until Ctrl-C or SIGTERM; SIGHUP reads CONFIG again.

    A second signal ends at once. Exit codes: 0 drained, 1 runtime failure, 2 bad usage or config.
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
        typer.Argument(metavar="CONFIG", help="The config whose forwards are tried; without it, none are."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out what is wrong with this machine, and with CONFIG on it, and say what to do."""
    from hvbridge.cli.doctor import doctor

    raise typer.Exit(doctor(config, as_json=as_json))


@app.command()
def status(
    config: RunningConfig = Path("hvbridge.toml"),
    admin: AdminUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the forwards of the running CONFIG: their upstreams, connections and totals."""
    from hvbridge.cli.status import status

    raise typer.Exit(status(config, admin=admin, token_file=token_file, as_json=as_json))


@app.command()
def top(
    config: RunningConfig = Path("hvbridge.toml"), admin: AdminUrl = None, token_file: TokenFile = None
) -> None:
    """Watch the running CONFIG in the terminal: throughput, busiest connections, recent closings."""
    from hvbridge.cli.top import top

    raise typer.Exit(top(config, admin=admin, token_file=token_file))


@app.command(name="reload")
def reload_config(
    config: RunningConfig = Path("hvbridge.toml"), admin: AdminUrl = None, token_file: TokenFile = None
) -> None:
    """Let the running CONFIG be read again, and print what changed."""
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
    """Connect standard input and output to ENDPOINT, as ssh's ProxyCommand wants it.

    ssh -o ProxyCommand="hvbridge connect hyperv://VM/ssh" user@vm
    """
    from hvbridge.cli.connect import connect

    raise typer.Exit(connect(endpoint, dial_timeout=dial_timeout, connect_mode=connect_mode))


@app.command(name="ssh-config")
def ssh_config(
    config: OptionalConfigFile = Path("hvbridge.toml"),
    install: Annotated[
        bool, typer.Option("--install", help="Write them to ~/.ssh/hvbridge.conf, included by ~/.ssh/config.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Undo --install.")] = False,
) -> None:
    """Print a Host block of ssh's config for each forward of CONFIG that is for ssh."""
    from hvbridge.cli.ssh_config import ssh_config

    raise typer.Exit(ssh_config(config, install=install, uninstall=uninstall))


@app.command()
def rdp(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The forward to open.")],
    config: OptionalConfigFile = Path("hvbridge.toml"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where to write it instead of NAME.rdp."),
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
    help="List, register and unregister the services that this host may use.",
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
        typer.Argument(metavar="NAME", help="What to call the service; ssh and xrdp have ids of their own."),
    ] = None,
    service_id: Annotated[
        str | None,
        typer.Option("--id", metavar="GUID", help="The id of the service; a fresh one by default."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="The vsock port of which the service has its id.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--from", metavar="CONFIG", help="Register every service that CONFIG needs."),
    ] = None,
    dry_run: DryRun = False,
    export: Export = None,
) -> None:
    """Register the service NAME, or all that a config needs, so that this host may use it.

    Needs an administrator, once; `hvbridge run` then needs none.
    """
    from hvbridge.cli.services import register, register_config

    form = None if export is None else export.value
    if config is not None and (name, service_id, port) == (None, None, None):
        raise typer.Exit(register_config(config, dry_run=dry_run, export=form))
    if config is not None or name is None:
        raise typer.BadParameter("write either a NAME, with --id or --port if need be, or --from CONFIG")
    raise typer.Exit(register(name, service_id=service_id, port=port, dry_run=dry_run, export=form))


@services.command(name="unregister")
def services_unregister(
    which: Annotated[str, typer.Argument(metavar="NAME|GUID", help="The service to remove.")],
    dry_run: DryRun = False,
    export: Export = None,
) -> None:
    """Remove a service, so that this host may no longer use it."""
    from hvbridge.cli.services import unregister

    raise typer.Exit(unregister(which, dry_run=dry_run, export=None if export is None else export.value))


service = typer.Typer(
    name="service",
    help="Let Windows run a config as a service, started at boot.",
    no_args_is_help=True,
)
app.add_typer(service)


@service.command(name="install")
def service_install(
    config: ConfigFile,
    name: ServiceName = "hvbridge",
    user: Annotated[
        ServiceUser,
        typer.Option(help="The account that it runs as; virtual is one of its own, with few rights."),
    ] = ServiceUser.VIRTUAL,
    grace: Grace = "10s",
) -> None:
    """Install a Windows service that runs CONFIG from boot on, and again when it has failed.

    Needs an administrator. It is not started now: what it says last is how to.
    """
    from hvbridge.cli.service import install

    raise typer.Exit(install(config, name=name, user=user.value, grace=grace))


@service.command(name="uninstall")
def service_uninstall(name: ServiceName = "hvbridge") -> None:
    """Drain the Windows service, stop it, and remove it.

    Needs an administrator.
    """
    from hvbridge.cli.service import uninstall

    raise typer.Exit(uninstall(name=name))


@service.command(name="status")
def service_status(name: ServiceName = "hvbridge") -> None:
    """Tell whether the Windows service is installed and running, and as whom."""
    from hvbridge.cli.service import status

    raise typer.Exit(status(name=name))


@service.command(name="run", hidden=True)
def service_run(config: ConfigFile, grace: Grace = "10s") -> None:
    """Be the process of the Windows service, which only Windows can start."""
    from hvbridge.cli.service import run

    raise typer.Exit(run(config, grace=grace))


@app.command()
def guid(
    value: Annotated[
        str | None,
        typer.Argument(metavar="PORT|GUID|NAME", help="A vsock port, a service GUID, or a service's name."),
    ] = None,
) -> None:
    """Translate a vsock port to its service GUID and back; without a value, make a fresh service GUID."""
    from hvbridge.cli.guid import guid

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
    from hvbridge.cli.demo import demo

    raise typer.Exit(demo(once=once))
