"""`hvbridge vms`: the VMs of this host."""

import json
import os

import trio
import typer
from rich.console import Console

from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, print_error
from hvbridge.cli.formatting import print_table
from hvbridge.hyperv.vms import VmError
from hvbridge.transport.network import network_from_environment


def vms(*, as_json: bool) -> int:
    """Print the VMs; return the exit code."""
    try:
        directory = network_from_environment(os.environ).vms
    except ValueError as error:
        print_error(error)
        return EXIT_USAGE
    if directory is None:
        print_error(
            "only a Hyper-V host can list VMs, and this machine is not one; run this on the host, "
            "or set HVBRIDGE_EMULATOR=DIR to emulate one"
        )
        return EXIT_FAILURE
    try:
        found = trio.run(directory.vms)
    except VmError as error:
        print_error(error)
        return EXIT_FAILURE
    if as_json:
        rows = [{"name": vm.name, "id": str(vm.id), "state": str(vm.state)} for vm in found]
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_table(
            Console(), ("name", "id", "state"), ((vm.name, str(vm.id), str(vm.state)) for vm in found)
        )
    return EXIT_OK
