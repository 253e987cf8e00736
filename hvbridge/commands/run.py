"""`hvbridge run`: a config's forwards until a signal.

Owns: signals and exit codes. Refuses: what is said meanwhile (`report`).
"""

import os
import signal
import sys
from pathlib import Path

import structlog
import trio
from rich.console import Console

from hvbridge import bridge, compose
from hvbridge.commands import log
from hvbridge.commands.check import load, print_faults
from hvbridge.commands.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, complain
from hvbridge.commands.report import LogReporter
from hvbridge.config import Config, ConfigError
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
    reporter = LogReporter(None if log_format == "json" else Console(stderr=True))
    return trio.run(_run, config, network, seconds, reporter)


async def _run(config: Config, network: Network, grace: float, reporter: compose.Reporter) -> int:
    shutdown = bridge.Shutdown(grace)
    code = EXIT_OK
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, shutdown)
        try:
            await compose.run(config, network, shutdown, reporter)
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


def _raise_descriptor_limit() -> None:
    """Use as many descriptors as this user may: each connection takes two."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
