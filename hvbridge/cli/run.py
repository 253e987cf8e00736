"""`hvbridge run`: runs the forwards of a config until a signal.

Handles signals, notifies the service manager, and triggers reloads; `log_reporter` logs the events.
"""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import structlog
import trio
from rich.console import Console

from hvbridge.app.build import build_network
from hvbridge.app.control import Control
from hvbridge.app.run import run as run_config
from hvbridge.cli import log
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, print_error, print_faults
from hvbridge.cli.loading import load
from hvbridge.cli.log_reporter import LogReporter, show_ready
from hvbridge.cli.log_writer import LineWriter
from hvbridge.config import Config, ConfigError
from hvbridge.proxy.background import run_guarded
from hvbridge.proxy.control import ReloadError
from hvbridge.proxy.events import BoundForward
from hvbridge.proxy.server import BindError, Shutdown
from hvbridge.service import sd_notify
from hvbridge.transport.network import Network
from hvbridge.units import parse_duration

_STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    _STOP_SIGNALS.append(signal.SIGBREAK)  # Ctrl-Break, which a service manager can send

_RELOAD_SIGNALS: list[signal.Signals] = []
if sys.platform != "win32":
    _RELOAD_SIGNALS.append(signal.SIGHUP)

logger = structlog.get_logger()


_LAST_LINES = 1.0
"""Seconds at the end for the log to be written; a reader that stalls must not keep the process."""

_IDLE_CHECK_INTERVAL = 1.0
"""Seconds between checks for open connections."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    grace: float
    watch: bool
    """Whether to reload when the config file changes."""
    exit_idle: float
    """Seconds without a connection after which to exit; `math.inf` for never."""
    path: Path
    """The config file."""
    text: bytes
    """Its content just before it was loaded."""


def run(
    path: Path, *, grace: str, log_format: str, log_level: str, watch: bool = False, exit_idle: str = "off"
) -> int:
    """Run the config at ``path``; return the exit code."""
    writer = log.configure(log_format, log_level)
    try:
        return _run_logged(
            path,
            writer,
            grace=grace,
            log_format=log_format,
            watch=watch,
            exit_idle=exit_idle,
        )
    finally:
        writer.close(_LAST_LINES)


def _run_logged(
    path: Path, writer: LineWriter, *, grace: str, log_format: str, watch: bool, exit_idle: str
) -> int:
    try:
        options = Options(
            parse_duration(grace), watch, parse_duration(exit_idle, off=True), path.absolute(), _text(path)
        )
        if watch and find_spec("watchfiles") is None:
            raise ValueError(
                "--watch needs the watchfiles package; install it: pip install 'hvbridge[watch]'"
            )
        config = load(path)
        network = build_network(config.emulator, os.environ)
    except ConfigError as error:
        print_faults(error)
        return EXIT_USAGE
    except ValueError as error:
        print_error(error)
        return EXIT_USAGE
    _raise_descriptor_limit()
    reporter = LogReporter(None if log_format == "json" else partial(_show_ready, writer))
    return trio.run(_run, config, network, options, partial(load, path), reporter, writer)


class _Text(StringIO):
    """A text for standard error, whose encoding rich looks at before it draws an arrow."""

    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"


def _show_ready(writer: LineWriter, forwards: Sequence[BoundForward]) -> None:
    """Write the table of forwards by way of the log, which waits for no reader."""
    seen = Console(stderr=True)
    text = _Text()
    # What rich captures it writes to standard error all the same, though it is nothing: that may fail, and block.
    show_ready(forwards, Console(file=text, force_terminal=seen.is_terminal, width=seen.width))
    writer.put(text.getvalue().rstrip("\n"))


async def _run(
    config: Config,
    network: Network,
    options: Options,
    reload_config: Callable[[], Config],
    reporter: LogReporter,
    writer: LineWriter,
) -> int:
    shutdown = Shutdown(options.grace)
    notifier = sd_notify.Notifier(on_failure=_on_notify_error)
    wanted, wanting = trio.open_memory_channel[None](1)

    async def on_ready(control: Control) -> None:
        notifier.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_reload, control, wanting, notifier)
            nursery.start_soon(_notify_stopping, shutdown, notifier)
            nursery.start_soon(sd_notify.watch, notifier, sd_notify.watchdog_seconds())
            if options.watch:
                nursery.start_soon(_watch, options.path, options.text, wanted)
            if options.exit_idle < math.inf:
                nursery.start_soon(_exit_when_idle, control, options.exit_idle, shutdown)

    code = EXIT_OK
    async with trio.open_nursery() as nursery:
        await nursery.start(_handle_signals, shutdown, wanted)
        nursery.start_soon(run_guarded, "counting suppressed log lines", reporter.flush_throttle)
        try:
            await run_config(
                config,
                network,
                shutdown,
                reporter.on_event,
                load=reload_config,
                on_ready=on_ready,
                log_lines_dropped=lambda: writer.dropped,
            )
        except BindError as error:
            for message in error.messages:
                print_error(message)
            code = EXIT_FAILURE
        nursery.cancel_scope.cancel()
    return code


async def _handle_signals(
    shutdown: Shutdown,
    wanted: trio.MemorySendChannel[None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first stop signal drains, the second aborts; SIGHUP requests a reload."""
    with trio.open_signal_receiver(*_STOP_SIGNALS, *_RELOAD_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number in _RELOAD_SIGNALS:
                _request_reload(wanted)
                continue
            if shutdown.drain.is_set():
                logger.warning("ending at once", signal=name)
                shutdown.abort.set()
            else:
                logger.info("draining", signal=name, grace=shutdown.grace)
                shutdown.drain.set()


def _request_reload(wanted: trio.MemorySendChannel[None]) -> None:
    with suppress(trio.WouldBlock):  # a pending reload will read the current file
        wanted.send_nowait(None)


async def _reload(
    control: Control, wanting: trio.MemoryReceiveChannel[None], notifier: sd_notify.Notifier
) -> None:
    """Reload the config whenever requested."""
    async for _ in wanting:
        notifier.reloading()
        try:
            await control.reload()
        except ReloadError:
            pass  # it is logged as an event
        except Exception as error:  # a bug in a reload must not end what runs
            logger.exception("reload failed", cause=repr(error))
        notifier.reloaded()


async def _watch(path: Path, text: bytes, wanted: trio.MemorySendChannel[None]) -> None:
    """Request a reload whenever the config's content differs from ``text``, or from its last content.

    The directory is watched, because editors and Kubernetes replace the file.
    """
    from watchfiles import awatch

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every file in the directory
    # A change before the watch started causes no event, so also check at each timeout.
    try:
        async for _ in awatch(path.parent, recursive=False, yield_on_timeout=True):
            before, text = text, _text(path) or text
            if text != before:
                _request_reload(wanted)
    except* (OSError, RuntimeError) as failures:  # such as when the user's inotify watches are used up
        logger.warning("the config is watched no longer", cause=str(failures.exceptions[0]))


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the file is being replaced
        return b""


async def _exit_when_idle(control: Control, seconds: float, shutdown: Shutdown) -> None:
    """Start the shutdown once no connection has been open for ``seconds``."""
    while True:
        since = control.quiet_since()
        if since is not None and trio.current_time() - since >= seconds:
            logger.info("ending, because nobody has connected", exit_idle=seconds)
            shutdown.drain.set()
            return
        await trio.sleep(min(seconds, _IDLE_CHECK_INTERVAL))


async def _notify_stopping(shutdown: Shutdown, notifier: sd_notify.Notifier) -> None:
    await shutdown.drain.wait()
    notifier.stopping()


def _on_notify_error(error: OSError) -> None:
    logger.warning("sd_notify failed", cause=str(error))


def _raise_descriptor_limit() -> None:
    """Raise the limit of open files as far as allowed: each connection takes two."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
