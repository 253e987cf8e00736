"""`hvbridge services`: lists, registers and unregisters services on the host."""

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import typer
from rich.console import Console

from hvbridge.address.endpoint import MAX_NAME, HypervEndpoint, NamedHypervEndpoint, is_service_name
from hvbridge.app.build import build_network
from hvbridge.cli.errors import exit_code
from hvbridge.cli.formatting import print_table
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.cli.program import command_line
from hvbridge.config import Config, EmulatorSettings
from hvbridge.hyperv.guid import WELL_KNOWN_SERVICES, parse_guid, port_of_service_id, service_id_of_port
from hvbridge.hyperv.services import NotElevatedError, RegistrationError, Service, ServiceRegistry, find
from hvbridge.hyperv.services.export import FORMS
from hvbridge.text import nearest, printable, quote


@exit_code(RegistrationError)
def list_services(*, as_json: bool) -> None:
    """Print the registered services."""
    rows = [
        (service.name, str(service.id), port_of_service_id(service.id))
        for service in sorted(_registry(None).services(), key=lambda service: (service.name, service.id))
    ]
    if as_json:
        typer.echo(
            json.dumps([dict(zip(("name", "id", "port"), row, strict=True)) for row in rows], indent=2)
        )
        return
    cells = (
        (printable(name), service_id, "" if port is None else str(port)) for name, service_id, port in rows
    )
    print_table(Console(), ("service", "id", "vsock port"), cells)


@exit_code(RegistrationError)
def register(
    name: str, *, service_id: str | None, port: int | None, dry_run: bool, export: str | None
) -> None:
    """Register one service."""
    known = _known(None, export)
    service = _service(name, service_id, port, known)
    if service in known and export is None:
        typer.echo(f"{quote(service.name)} is already registered as {service.id}")
        return
    arguments = ["register", name, "--id", str(service.id)]
    _change(None, [service], [], dry_run=dry_run, export=export, arguments=arguments)


@exit_code(RegistrationError)
def register_config(path: Path, *, dry_run: bool, export: str | None) -> None:
    """Register the services that the config at ``path`` needs and the host does not have, under any name."""
    config = load_for_any_machine(path)
    needed = _needed(config)
    if not needed:
        typer.echo("no forward has a hyperv endpoint, so no services are needed")
        return
    if export is None:
        known = {service.id for service in _known(config.emulator, export)}
        needed = [service for service in needed if service.id not in known]
        if not needed:
            typer.echo("every service that the config needs is already registered")
            return
    arguments = ["register", "--from", str(path.absolute())]
    _change(config.emulator, needed, [], dry_run=dry_run, export=export, arguments=arguments)


@exit_code(RegistrationError)
def unregister(which: str, *, dry_run: bool, export: str | None) -> None:
    """Remove the service that ``which`` names or identifies."""
    known = _known(None, export)
    service_id = parse_guid(which) or _id_of(which, known)
    if export is None and all(service_id != service.id for service in known):
        typer.echo(f"{service_id} is not registered")
        return
    arguments = ["unregister", str(service_id)]
    _change(None, [], [service_id], dry_run=dry_run, export=export, arguments=arguments)


def _change(
    emulator: EmulatorSettings | None,
    add: Sequence[Service],
    remove: Sequence[UUID],
    *,
    dry_run: bool,
    export: str | None,
    arguments: Sequence[str],
) -> None:
    """Change the registry, or print what would change. ``arguments`` are those of the command that does this."""
    if export is not None:
        typer.echo(FORMS[export](add, remove), nl=False)
        return
    registry = _registry(emulator)
    done, undone = ("would register", "would unregister") if dry_run else ("registered", "unregistered")
    try:
        for service in add:
            if not dry_run:
                registry.register(service)
            typer.echo(f"{done} {quote(service.name)} as {service.id}")
        for service_id in remove:
            if not dry_run:
                registry.unregister(service_id)
            typer.echo(f"{undone} {service_id}")
    except NotElevatedError as error:
        raise RegistrationError(
            f"{error}; run this in a command prompt opened as administrator: {command_line('services', *arguments)} "
            "(if Python may not run as administrator, use --export reg or --export powershell instead)"
        ) from error


def _registry(emulator: EmulatorSettings | None) -> ServiceRegistry:
    """The registry of the emulated host (by the config, else the environment), or of this machine."""
    registry = build_network(emulator, os.environ).services
    if registry is None:
        raise RegistrationError(
            "services are registered on a Hyper-V host, and this machine is not one; run this on the host, "
            "or write a file for it with --export reg or --export powershell"
        )
    return registry


def _known(emulator: EmulatorSettings | None, export: str | None) -> list[Service]:
    try:
        return _registry(emulator).services()
    except RegistrationError:
        if export is None:
            raise
        return []  # an export is for another machine, whose services are unknown


def _needed(config: Config) -> list[Service]:
    """The services of a config's endpoints, named as in the config, or else after the first forward that uses them."""
    needed: dict[UUID, str] = {}
    for forward in config.forwards:
        for endpoint in (forward.connect, forward.listen):
            if isinstance(endpoint, HypervEndpoint | NamedHypervEndpoint):
                needed.setdefault(endpoint.service, f"hvbridge {forward.name}")
                if endpoint.service_name:
                    needed[endpoint.service] = endpoint.service_name
    return [Service(service_id, name) for service_id, name in needed.items()]


def _service(name: str, service_id: str | None, port: int | None, known: Sequence[Service]) -> Service:
    """The service to register: with the requested id, else the id that the name already has, else a new one."""
    requested = _requested_id(service_id, port)
    well_known = WELL_KNOWN_SERVICES.get(name.casefold())
    others = [service for service in known if service.name.casefold() == name.casefold()]
    if parse_guid(name) or name.isdecimal():
        raise ValueError(
            f"{quote(name)} is an id, not a name; write a name, and pass the id with --id or --port"
        )
    if not is_service_name(name):
        raise ValueError(
            f"{quote(name)} cannot be used in an endpoint; "
            f"write a name of up to {MAX_NAME} characters that has no / and does not look like a GUID"
        )
    if well_known is not None:
        if requested not in (None, well_known.id):
            raise ValueError(f"{quote(name)} is the well-known name of {well_known.id}; write another name")
        return Service(well_known.id, name)
    if requested is not None:
        others = [service for service in others if service.id != requested]
        if others:
            raise ValueError(
                f"{quote(name)} is registered as {others[0].id}; write another name, or unregister it first"
            )
        return Service(requested, name)
    return others[0] if others else Service(uuid.uuid4(), name)


def _requested_id(service_id: str | None, port: int | None) -> UUID | None:
    if service_id is None:
        return None if port is None else service_id_of_port(port)
    if port is not None:
        raise ValueError("--id and --port both set the service id; use only one")
    parsed = parse_guid(service_id)
    if parsed is None:
        raise ValueError(f"{quote(service_id)} is not a GUID; write 8-4-4-4-12 hexadecimal digits")
    return parsed


def _id_of(name: str, known: Sequence[Service]) -> UUID:
    found = find(name, known)
    if found is not None:
        return found.id
    if name.casefold() in WELL_KNOWN_SERVICES:
        return WELL_KNOWN_SERVICES[name.casefold()].id
    near = nearest(name, (service.name for service in known))
    advice = f"did you mean {quote(near)}?" if near else "write a name or an id from `hvbridge services list`"
    raise ValueError(f"there is no service named {quote(name)}; {advice}")
