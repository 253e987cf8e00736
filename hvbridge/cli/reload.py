"""`hvbridge reload`: makes a running bridge reload its config."""

import sys
from pathlib import Path

import typer

from hvbridge.cli.admin_client import AdminClient, with_admin
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK
from hvbridge.proxy.control import ReloadError
from hvbridge.text import escaped


def reload(config: Path, *, admin: str | None, token_file: Path | None) -> int:
    """Print what changed, or every fault of the config; return the exit code."""
    return with_admin(config, admin, token_file, _reload)


def _reload(client: AdminClient) -> int:
    try:
        changed = client.reload()
    except ReloadError as error:
        for fault in error.faults:
            print(escaped(fault), file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    typer.echo("\n".join(map(escaped, changed.splitlines())))
    return EXIT_OK
