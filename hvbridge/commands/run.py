"""`hvbridge run`: a config's forwards until a signal.

Owns: signals, the table of forwards, closing records as log lines, exit codes.
"""

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog
import trio
from rich.console import Console

from hvbridge import bridge, compose
from hvbridge.commands import log
from hvbridge.commands.check import load, print_faults
from hvbridge.commands.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, complain
from hvbridge.commands.tables import print_forwards
from hvbridge.config import Config, ConfigError
from hvbridge.forward import Record
from hvbridge.splice import Reason
from hvbridge.transport.network import Network
from hvbridge.units import parse_duration

_STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    _STOP_SIGNALS.append(signal.SIGBREAK)  # Ctrl-Break, and what a service manager can send

logger = structlog.get_logger()


def run(path: Path, *, grace: str, log_format: str, log_level: str) -> int:
    """Run the config at ``path``; return the exit code."""
    log.configure(log_format, log_level)
    try:
        seconds = parse_duration(grace)
        config = load(path)
        network = compose.network_of(config.emulator, os.environ)
    except ConfigError as error:
        print_faults(error)
        return EXIT_USAGE
    except ValueError as error:
        complain(error)
        return EXIT_USAGE
    _raise_descriptor_limit()
    ready = log_ready if log_format == "json" else partial(show_ready, console=Console(stderr=True))
    return trio.run(_run, config, network, seconds, ready)


async def _run(config: Config, network: Network, grace: float, ready: compose.Ready) -> int:
    shutdown = bridge.Shutdown(grace)
    code = EXIT_OK
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, shutdown)
        try:
            await compose.run(config, network, shutdown, ready=ready, account=log_closed)
        except bridge.BindError as error:
            for message in error.messages:
                complain(message)
            code = EXIT_FAILURE
        nursery.cancel_scope.cancel()
    return code


async def _heed_signals(
    shutdown: bridge.Shutdown, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal begins the shutdown, the second hurries it."""
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if shutdown.begin.is_set():
                logger.warning("ending at once", signal=name)
                shutdown.hurry.set()
            else:
                logger.info("draining", signal=name, grace=shutdown.grace)
                shutdown.begin.set()


def show_ready(forwards: Sequence[compose.Bound], console: Console) -> None:
    """Say that all listeners are bound, for a person."""
    rows = [(forward.name, "\n".join(forward.listen), forward.connect) for forward in forwards]
    console.print("hvbridge is [bold green]ready[/]")
    print_forwards(console, rows)


def log_ready(forwards: Sequence[compose.Bound]) -> None:
    """Say that all listeners are bound, for a program."""
    lines = [{"forward": f.name, "listen": list(f.listen), "connect": f.connect} for f in forwards]
    logger.info("ready", forwards=lines)


def log_closed(record: Record) -> None:
    """Write the closing record of a connection."""
    transfer = record.transfer
    fields = {
        "id": record.id,
        "forward": record.forward,
        "peer": record.peer,
        "upstream": str(record.upstream),
        "client_to_upstream": transfer.client_to_upstream,
        "upstream_to_client": transfer.upstream_to_client,
        "seconds": round(record.seconds, 3),
        "dial_seconds": None if record.dial_seconds is None else round(record.dial_seconds, 4),
        "reason": str(transfer.reason),
    }
    if transfer.detail:
        fields["detail"] = transfer.detail
    if record.bug is not None:
        logger.error("connection closed", exc_info=record.bug, **fields)
    elif transfer.reason is Reason.DIAL_FAILED:
        logger.warning("connection closed", **fields)
    else:
        logger.info("connection closed", **fields)


def _raise_descriptor_limit() -> None:
    """Use as many descriptors as this user may: each connection takes two."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
