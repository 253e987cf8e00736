"""`hvbridge guid`: converts vsock ports and service names to service GUIDs, and back."""

import os
import uuid

import typer

from hvbridge.address.endpoint import parse_service
from hvbridge.cli.errors import EXIT_OK, EXIT_USAGE, print_error
from hvbridge.hyperv.guid import parse_guid, port_of_service_id
from hvbridge.transport.network import network_from_environment


def guid(value: str | None) -> int:
    """Print the other form of ``value``, or a new GUID; return the exit code."""
    if value is None:
        typer.echo(uuid.uuid4())
        return EXIT_OK
    try:
        service = parse_service(value, network_from_environment(os.environ).services).id
    except ValueError as error:
        print_error(error)
        return EXIT_USAGE
    if parse_guid(value) is None:
        typer.echo(service)
        return EXIT_OK
    port = port_of_service_id(service)
    if port is None:
        print_error(f"{service} is not a GUID of the vsock template (PPPPPPPP-facb-11e6-bd58-64006a7986d3)")
        return EXIT_USAGE
    typer.echo(port)
    return EXIT_OK
