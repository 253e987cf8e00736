"""`hvbridge service`: installs, removes and runs a bridge as a Windows service."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import typer

import hvbridge
from hvbridge.address.endpoint import HypervEndpoint, NamedHypervEndpoint
from hvbridge.app.build import build_network
from hvbridge.app.run import run as run_config
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, exit_code
from hvbridge.cli.loading import load
from hvbridge.cli.program import command_line
from hvbridge.config import Config
from hvbridge.hyperv.constants import HYPERV_ADMINISTRATORS
from hvbridge.hyperv.guid import PARENT
from hvbridge.proxy.events import EventHandler
from hvbridge.proxy.server import Shutdown
from hvbridge.service.windows import Installation, NotElevatedError, ServiceError, ServiceManager
from hvbridge.service.windows.event_log import Log
from hvbridge.service.windows.lifecycle import Service, Status
from hvbridge.text import quote
from hvbridge.units import format_duration, parse_duration

_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_LONGEST_NAME = 80
"""Characters. Windows allows 256, but the name of the account must fit, too."""


_ACCOUNTS = {
    "virtual": "NT SERVICE\\{name}",
    "LocalService": "NT AUTHORITY\\LocalService",
    "LocalSystem": "LocalSystem",
}
"""The accounts of `--user`. Windows creates a virtual account for the service alone."""


@exit_code(ServiceError)
def install(path: Path, *, name: str, user: str, grace: str) -> None:
    """Install a service that runs the config at ``path``."""
    manager = service_manager()
    seconds = parse_duration(grace)
    _check_name(name)
    config = load(path)
    path = path.absolute()
    service = Installation(
        name,
        _ACCOUNTS[user].format(name=name),
        [_base_python(), "-m", "hvbridge", "service", "run", str(path), "--grace", format_duration(seconds)],
        _environment(),
    )
    with _elevation("install", str(path), "--name", name, "--user", user, "--grace", grace):
        manager.install(service)
    typer.echo(f"installed {quote(name)}: it starts at boot, as {service.account}")
    for advice in _advice(config, path, service):
        typer.echo(advice)
    typer.echo(f"to start it now: sc.exe start {name}")


@exit_code(ServiceError)
def uninstall(*, name: str) -> None:
    """Stop the service and remove it."""
    manager = service_manager()
    if manager.find(name) is None:
        typer.echo(f"{quote(name)} is not installed")
        return
    with _elevation("uninstall", "--name", name):
        manager.uninstall(name)
    typer.echo(f"removed {quote(name)}")


@exit_code(ServiceError)
def status(*, name: str) -> int:
    """Print the state of the service."""
    found = service_manager().find(name)
    if found is None:
        typer.echo(f"{quote(name)} is not installed")
        return EXIT_FAILURE
    process = f", process {found.process}" if found.process else ""
    typer.echo(f"{quote(name)} is {found.state}{process}, as {found.account}")
    typer.echo(f"command: {found.command}")
    if found.failure:
        typer.echo(f"its last run ended with exit code {found.failure}; see the event log, source {name}")
    return EXIT_OK if found.state == "running" else EXIT_FAILURE


@exit_code(ServiceError)
def run(path: Path, *, grace: str) -> None:
    """Run as the process of the service."""
    seconds = parse_duration(grace)
    host = _host()

    async def serve(shutdown: Shutdown, on_event: EventHandler) -> None:
        config = load(path)
        network = build_network(config.emulator, os.environ)
        await run_config(config, network, shutdown, on_event, load=partial(load, path))

    host(lambda tell, log: Service(serve, grace=seconds, tell=tell, log=log))


def service_manager() -> ServiceManager:
    """The service control manager of this Windows. Raises `ServiceError` on what is no Windows, or lacks pywin32."""
    with _needs():
        from hvbridge.service.windows.manager import WindowsServiceManager
    return WindowsServiceManager()


def _host() -> Callable[[Callable[[Callable[[Status], None], Log], Service]], None]:
    with _needs():
        from hvbridge.service.windows.host import host
    return host


@contextmanager
def _needs() -> Iterator[None]:
    if sys.platform != "win32":
        raise ServiceError("a Windows service needs Windows; on Linux, run `hvbridge run` under systemd")
    try:
        yield
    except ImportError as error:
        install = subprocess.list2cmdline([sys.executable, "-m", "pip", "install", "pywin32"])
        raise ServiceError(
            f"a Windows service needs pywin32, which is not installed; run {install}"
        ) from error


@contextmanager
def _elevation(*arguments: str) -> Iterator[None]:
    try:
        yield
    except NotElevatedError as error:
        raise ServiceError(
            f"{error}; run this in a command prompt opened as administrator: {command_line('service', *arguments)}"
        ) from error


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _LONGEST_NAME or not _NAME_CHARACTERS.issuperset(name):
        raise ValueError(
            f"{quote(name)} is not a valid service name; write up to {_LONGEST_NAME} letters, digits, -, _ and ."
        )


def _base_python() -> str:
    """The base interpreter, also in a virtual environment; multiprocessing starts the same one."""
    base: str = sys._base_executable  # type: ignore[attr-defined]  # noqa: SLF001 - no public name has it
    return base


def _environment() -> dict[str, str]:
    """Variables with which the base interpreter finds this virtual environment, as in multiprocessing.

    The service cannot run the python.exe of a virtual environment: it starts the base interpreter and waits, so the
    service manager would control the wrong process.
    """
    if os.path.normcase(sys.executable) == os.path.normcase(_base_python()):
        return {}
    return {"__PYVENV_LAUNCHER__": sys.executable}


def _advice(config: Config, path: Path, service: Installation) -> Iterator[str]:
    """What an administrator must still do for an account with few rights."""
    if service.account == "LocalSystem":
        return
    for private in _private(path):
        rights = "(OI)(CI)(RX)" if private.is_dir() else "(R)"
        yield f'to let it read files in your profile: icacls "{private}" /grant "NT SERVICE\\{service.name}:{rights}"'
    if config.emulator is None and _reaches_vms(config):
        yield (
            "to let it reach VMs, run in PowerShell: "
            f'Add-LocalGroupMember -SID {HYPERV_ADMINISTRATORS} -Member "{service.account}"'
        )


def _private(path: Path) -> list[Path]:
    """The paths that the service reads in this user's profile, which other accounts cannot read."""
    needed = [Path(sys.prefix), Path(sys.base_prefix), Path(hvbridge.__file__).parent, path]
    private: list[Path] = []
    for candidate in needed:
        if candidate.is_relative_to(Path.home()) and not any(candidate.is_relative_to(p) for p in private):
            private.append(candidate)
    return private


def _reaches_vms(config: Config) -> bool:
    endpoints = [endpoint for forward in config.forwards for endpoint in (forward.connect, forward.listen)]
    return any(
        isinstance(endpoint, NamedHypervEndpoint)
        or (isinstance(endpoint, HypervEndpoint) and endpoint.vm != PARENT)
        for endpoint in endpoints
    )
