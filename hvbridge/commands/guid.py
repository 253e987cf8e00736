"""`hvbridge guid`: vsock ports, service GUIDs and well-known names."""

import uuid

import typer

from hvbridge.commands.console import EXIT_OK, EXIT_USAGE, complain
from hvbridge.endpoint import EndpointError, parse_service
from hvbridge.ids import port_of_service_id


def guid(value: str | None) -> int:
    """Print the other form of ``value``, or a fresh GUID; return the exit code."""
    if value is None:
        typer.echo(uuid.uuid4())
        return EXIT_OK
    try:
        service = parse_service(value)
    except EndpointError as error:
        complain(error)
        return EXIT_USAGE
    port = port_of_service_id(service)
    asked_with_guid = "-" in value and value.strip("{}").count("-") == 4
    if not asked_with_guid:
        typer.echo(service)
        return EXIT_OK
    if port is None:
        complain(f"{service} is no GUID of the vsock template (PPPPPPPP-facb-11e6-bd58-64006a7986d3)")
        return EXIT_USAGE
    typer.echo(port)
    return EXIT_OK
