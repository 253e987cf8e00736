"""What a service does from its start to its stop, and what its manager hears meanwhile.

Owns: the states, the order and the pace in which they are told, and what a stop does to the bridge. Refuses: Windows
(the manager is a function here), what is served (another function), and where events go.

Source of the numbers: Microsoft, "Service Control Requests" and "SERVICE_STATUS structure".
"""

import itertools
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import trio

from hvbridge import bridge, compose
from hvbridge.config import ConfigError
from hvbridge.service.events import Event, EventLogReporter, Log

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


Serve = Callable[[bridge.Shutdown, compose.Reporter], Awaitable[None]]
"""Loads a config and runs it until the shutdown. Raises `ConfigError` and `bridge.BindError`."""


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
        self._shutdown: bridge.Shutdown
        self._token: trio.lowlevel.TrioToken

    def run(self) -> None:
        """Serve until stopped. Raises nothing: what goes wrong is an event and an exit code."""
        self._tell(Status(State.STARTING, wait_hint=_START_HINT))
        try:
            code = trio.run(self.main)
        except Exception:  # nobody above hears of it: the manager only sees that the process is gone
            self._log(Event.FAULT, f"ended by a fault of hvbridge\n{traceback.format_exc()}")
            code = CANNOT_START
        self._tell(Status(State.STOPPED, exit_code=code))

    def control(self, code: int) -> None:
        """Do what the manager asks, in the thread in which it asks; a stop has begun on return."""
        if code not in (Control.STOP, Control.SHUTDOWN):
            return
        grace = self._grace if code == Control.STOP else min(self._grace, _SHUTDOWN_GRACE)
        with suppress(trio.RunFinishedError):  # it has ended by itself in the meantime
            trio.from_thread.run_sync(self._begin_to_stop, grace, trio_token=self._token)

    async def main(self) -> int:
        """What ``run`` does in trio. Returns the exit code."""
        self._token = trio.lowlevel.current_trio_token()
        self._shutdown = bridge.Shutdown(self._grace)
        code = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_of_draining)
            try:
                await self._serve(self._shutdown, EventLogReporter(self._log, self._is_running))
            except ConfigError as error:
                self._log(Event.CANNOT_START, f"the config is faulty\n{error}")
                code = FAULTY_CONFIG
            except bridge.BindError as error:
                self._log(Event.CANNOT_START, f"not everything can be listened on\n{error}")
                code = CANNOT_START
            nursery.cancel_scope.cancel()
        return code

    def _is_running(self) -> None:
        self._tell(Status(State.RUNNING))

    def _begin_to_stop(self, grace: float) -> None:
        self._shutdown.grace = grace
        self._shutdown.begin.set()
        self._log(Event.DRAINING, f"draining for up to {grace:g} s")
        self._tell(Status(State.STOPPING, 1, grace + _MARGIN))

    async def _tell_of_draining(self) -> None:
        await self._shutdown.begin.wait()
        for checkpoint in itertools.count(2):
            await trio.sleep(_PACE)
            self._tell(Status(State.STOPPING, checkpoint, self._shutdown.grace + _MARGIN))
