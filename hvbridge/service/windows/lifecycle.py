"""What a service does from its start to its stop, and what its manager hears meanwhile.

Owns: the states, the order and the pace in which they are told, and what a stop does to the bridge. Refuses: Windows
(the manager is a function here), what is served (another function), and where events go.

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
"""Exit codes, as `hvbridge run` has them."""

_START_HINT = 60.0
"""Seconds that a start may take: names are looked up, and a busy machine at boot is slow."""

_MARGIN = 5.0
"""Seconds more than the grace period that the manager is asked to wait."""

_PACE = 1.0
"""Seconds between two signs of life while connections drain."""

_SHUTDOWN_GRACE = 3.0
"""Seconds to drain in when Windows shuts down: it kills what has not stopped after 5 (WaitToKillServiceTimeout)."""


class State(IntEnum):
    """States of a service, by Windows' numbers."""

    STOPPED = 1
    STARTING = 2
    STOPPING = 3
    RUNNING = 4


class Control(IntEnum):
    """What a manager asks of a service, by Windows' numbers."""

    STOP = 1
    SHUTDOWN = 5


class Status(NamedTuple):
    """What a service tells its manager."""

    state: State
    checkpoint: int = 0
    """Grows while a start or a stop makes progress."""
    wait_hint: float = 0.0
    """Seconds within which the next sign of life is due."""
    exit_code: int = 0


Serve = Callable[[Shutdown, EventHandler], Awaitable[None]]
"""Loads a config and runs it until the shutdown. Raises `ConfigError` and `BindError`."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What a control needs of a service that runs."""

    shutdown: Shutdown
    token: trio.lowlevel.TrioToken


class Service:
    """One run of a service: ``run`` in a thread of its own, ``control`` in the manager's.

    ``tell`` tells the manager of each status, always from the thread of ``run``; the first is `State.STARTING`, the
    last `State.STOPPED`.
    """

    def __init__(self, serve: Serve, *, grace: float, tell: Callable[[Status], None], log: Log) -> None:
        self._serve = serve
        self._grace = grace
        self._tell = tell
        self._log = log
        self._running: _Running | None = None
        """None before trio runs, when Windows sends no controls yet."""

    def run(self) -> None:
        """Serve until stopped. Raises nothing: what goes wrong is an event and an exit code."""
        self._tell(Status(State.STARTING, wait_hint=_START_HINT))
        try:
            code = trio.run(self.main)
        except Exception:  # nobody above hears of it: the manager only sees that the process is gone
            self._log(EventId.BUG, f"ended by a bug in hvbridge\n{traceback.format_exc()}")
            code = CANNOT_START
        self._tell(Status(State.STOPPED, exit_code=code))

    def control(self, code: int) -> None:
        """Do what the manager asks, in the thread in which it asks; a stop has begun on return."""
        running = self._running
        if running is None or code not in (Control.STOP, Control.SHUTDOWN):
            return
        grace = self._grace if code == Control.STOP else min(self._grace, _SHUTDOWN_GRACE)
        with suppress(trio.RunFinishedError):  # it has ended by itself in the meantime
            trio.from_thread.run_sync(self._drain, running.shutdown, grace, trio_token=running.token)

    async def main(self) -> int:
        """What ``run`` does in trio. Returns the exit code."""
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
