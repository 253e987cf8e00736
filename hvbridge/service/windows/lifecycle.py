"""The life of a service, from start to stop, and its status reports to the service manager.

Independent of Windows: the manager, the bridge and the event log are functions here.

Source of the numbers: Microsoft, "Service Control Requests" and "SERVICE_STATUS structure".
"""

import itertools
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import trio

from hvbridge.config import ConfigError
from hvbridge.proxy.events import EventHandler
from hvbridge.proxy.server import BindError, Shutdown
from hvbridge.service.windows.event_log import EventId, EventLogReporter, Log

CANNOT_START = 1
FAULTY_CONFIG = 2
"""Exit codes, the same as those of `hvbridge run`."""

_START_HINT = 60.0
"""Seconds that a start may take: names are resolved, and a machine is slow during boot."""

_MARGIN = 5.0
"""Seconds beyond the grace period that the manager is asked to wait."""

_PACE = 1.0
"""Seconds between progress reports while connections drain."""

_SHUTDOWN_GRACE = 3.0
"""Seconds to drain in when Windows shuts down: it kills what has not stopped after 5 (WaitToKillServiceTimeout)."""


class State(IntEnum):
    """States of a service, with the numbers of Windows."""

    STOPPED = 1
    STARTING = 2
    STOPPING = 3
    RUNNING = 4


class Control(IntEnum):
    """Requests of a manager, with the numbers of Windows."""

    STOP = 1
    SHUTDOWN = 5


class Status(NamedTuple):
    """A status report to the manager."""

    state: State
    checkpoint: int = 0
    """Incremented while a start or a stop makes progress."""
    wait_hint: float = 0.0
    """Seconds until the next report is due."""
    exit_code: int = 0


Serve = Callable[[Shutdown, EventHandler], Awaitable[None]]
"""Loads a config and runs it until shutdown. Raises `ConfigError` and `BindError`."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What `Service.control` needs once the service is running."""

    shutdown: Shutdown
    token: trio.lowlevel.TrioToken


class Service:
    """One run of a service: ``run`` in its own thread, ``control`` in the manager's.

    ``tell`` reports each status to the manager, always from the thread of ``run``; the first is `State.STARTING`, the
    last `State.STOPPED`.
    """

    def __init__(self, serve: Serve, *, grace: float, tell: Callable[[Status], None], log: Log) -> None:
        self._serve = serve
        self._grace = grace
        self._tell = tell
        self._log = log
        self._running: _Running | None = None
        """None before trio runs; Windows sends no controls until then."""

    def run(self) -> None:
        """Serve until stopped. Raises nothing: failures become events and exit codes."""
        self._tell(Status(State.STARTING, wait_hint=_START_HINT))
        try:
            code = trio.run(self.main)
        except Exception:  # noqa: BLE001 - otherwise lost: the manager would only see that the process exited
            self._log(EventId.BUG, f"stopped by a bug in hvbridge\n{traceback.format_exc()}")
            code = CANNOT_START
        self._tell(Status(State.STOPPED, exit_code=code))

    def control(self, code: int) -> None:
        """Handle a request of the manager, in its thread; on return, a stop has started."""
        running = self._running
        if running is None or code not in (Control.STOP, Control.SHUTDOWN):
            return
        grace = self._grace if code == Control.STOP else min(self._grace, _SHUTDOWN_GRACE)
        with suppress(trio.RunFinishedError):  # it has already ended
            trio.from_thread.run_sync(self._drain, running.shutdown, grace, trio_token=running.token)

    async def main(self) -> int:
        """The part of ``run`` in trio. Returns the exit code."""
        shutdown = Shutdown(self._grace)
        self._running = _Running(shutdown, trio.lowlevel.current_trio_token())
        code = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_draining, shutdown)
            try:
                await self._serve(shutdown, EventLogReporter(self._log, self._report_running).on_event)
            except ConfigError as error:
                self._log(EventId.CANNOT_START, f"the config has faults\n{error}")
                code = FAULTY_CONFIG
            except BindError as error:
                self._log(EventId.CANNOT_START, f"cannot listen on every endpoint\n{error}")
                code = CANNOT_START
            nursery.cancel_scope.cancel()
        return code

    def _report_running(self) -> None:
        self._tell(Status(State.RUNNING))

    def _drain(self, shutdown: Shutdown, grace: float) -> None:
        shutdown.grace = grace
        shutdown.drain.set()
        self._log(EventId.DRAINING, f"draining for up to {grace:g} s")
        self._tell(Status(State.STOPPING, 1, grace + _MARGIN))

    async def _report_draining(self, shutdown: Shutdown) -> None:
        await shutdown.drain.wait()
        for checkpoint in itertools.count(2):
            await trio.sleep(_PACE)
            self._tell(Status(State.STOPPING, checkpoint, shutdown.grace + _MARGIN))
