"""`hvbridge run`: a config's forwards until a signal.

Owns: signals, the service manager, when a config is read again, and exit codes. Refuses: what is said meanwhile
(`report`).
"""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import structlog
import trio
from rich.console import Console

from hvbridge import bridge, compose, systemd
from hvbridge.admin.supervisor import ReloadError
from hvbridge.commands import log
from hvbridge.commands.check import load
from hvbridge.commands.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, complain
from hvbridge.commands.outcome import print_faults
from hvbridge.commands.report import LogReporter
from hvbridge.config import Config, ConfigError
from hvbridge.transport.network import Network
from hvbridge.units import parse_duration

_STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    _STOP_SIGNALS.append(signal.SIGBREAK)  # Ctrl-Break, and what a service manager can send

_RELOAD_SIGNALS: list[signal.Signals] = []
if sys.platform != "win32":
    _RELOAD_SIGNALS.append(signal.SIGHUP)

logger = structlog.get_logger()


_LOOK = 1.0
"""Seconds between two looks whether all is quiet."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the config."""

    grace: float
    watch: bool
    """Whether the config is read again when its file changes."""
    exit_idle: float
    """Seconds without any connection after which it ends; `math.inf` is never."""
    path: Path
    """The config's file."""
    text: bytes
    """What was in it just before it was read."""


def run(
    path: Path, *, grace: str, log_format: str, log_level: str, watch: bool = False, exit_idle: str = "off"
) -> int:
    """Run the config at ``path``; return the exit code."""
    log.configure(log_format, log_level)
    try:
        options = Options(
            parse_duration(grace), watch, parse_duration(exit_idle, off=True), path.absolute(), _text(path)
        )
        if watch and find_spec("watchfiles") is None:
            raise ValueError("--watch needs the package watchfiles; pip install 'hvbridge[watch]'")
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
    return trio.run(_run, config, network, options, partial(load, path), reporter)


async def _run(
    config: Config,
    network: Network,
    options: Options,
    again: Callable[[], Config],
    reporter: LogReporter,
) -> int:
    shutdown = bridge.Shutdown(options.grace)
    notifier = systemd.Notifier(on_failure=_deaf)
    wanted, wanting = trio.open_memory_channel[None](1)

    async def attend(composition: compose.Composition) -> None:
        notifier.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_reload, composition, wanting, notifier)
            nursery.start_soon(_tell_stopping, shutdown, notifier)
            nursery.start_soon(systemd.watch, notifier, systemd.watchdog_seconds())
            if options.watch:
                nursery.start_soon(_watch, options.path, options.text, wanted)
            if options.exit_idle < math.inf:
                nursery.start_soon(_exit_when_idle, composition, options.exit_idle, shutdown)

    code = EXIT_OK
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, shutdown, wanted)
        nursery.start_soon(reporter.tell_of_floods)
        try:
            await compose.run(config, network, shutdown, reporter, load=again, attend=attend)
        except bridge.BindError as error:
            for message in error.messages:
                complain(message)
            code = EXIT_FAILURE
        nursery.cancel_scope.cancel()
    return code


async def _heed_signals(
    shutdown: bridge.Shutdown,
    wanted: trio.MemorySendChannel[None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first signal to stop begins the shutdown, the second hurries it; a hangup asks for a reload."""
    with trio.open_signal_receiver(*_STOP_SIGNALS, *_RELOAD_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number in _RELOAD_SIGNALS:
                _ask(wanted)
                continue
            if shutdown.begin.is_set():
                logger.warning("ending at once", signal=name)
                shutdown.hurry.set()
            else:
                logger.info("draining", signal=name, grace=shutdown.grace)
                shutdown.begin.set()


def _ask(wanted: trio.MemorySendChannel[None]) -> None:
    with suppress(trio.WouldBlock):  # one that has not begun yet will read what is there now
        wanted.send_nowait(None)


async def _reload(
    composition: compose.Composition, wanting: trio.MemoryReceiveChannel[None], notifier: systemd.Notifier
) -> None:
    """Read the config again whenever that is asked for."""
    async for _ in wanting:
        notifier.reloading()
        with suppress(ReloadError):  # the reporter has told
            await composition.reload()
        notifier.reloaded()


async def _watch(path: Path, text: bytes, wanted: trio.MemorySendChannel[None]) -> None:
    """Ask for a reload whenever the config's text is no longer ``text``, or what it was then.

    Its directory is watched, because editors, and Kubernetes, put another file in the place of the one that was there.
    """
    from watchfiles import awatch

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every file in the directory
    # A change before the watch began brings no event, so it looks once in a while as well.
    try:
        async for _ in awatch(path.parent, recursive=False, yield_on_timeout=True):
            before, text = text, _text(path) or text
            if text != before:
                _ask(wanted)
    except* (OSError, RuntimeError) as failures:  # such as when the user may have no more inotify watches
        logger.warning("the config is watched no longer", cause=str(failures.exceptions[0]))


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # between two names
        return b""


async def _exit_when_idle(
    composition: compose.Composition, seconds: float, shutdown: bridge.Shutdown
) -> None:
    """Begin the shutdown once no connection has been open for so long."""
    while True:
        since = composition.quiet_since()
        if since is not None and trio.current_time() - since >= seconds:
            logger.info("ending, because nobody has connected", exit_idle=seconds)
            shutdown.begin.set()
            return
        await trio.sleep(min(seconds, _LOOK))


async def _tell_stopping(shutdown: bridge.Shutdown, notifier: systemd.Notifier) -> None:
    await shutdown.begin.wait()
    notifier.stopping()


def _deaf(error: OSError) -> None:
    logger.warning("systemd does not hear", cause=str(error))


def _raise_descriptor_limit() -> None:
    """Use as many descriptors as this user may: each connection takes two."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
