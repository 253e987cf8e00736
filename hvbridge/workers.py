"""Tasks that are used again: making, scheduling and ending one costs more than twice as much as waking one.

Owns: which tasks are idle, and their end. Refuses: what they do, deadlines, and failures: a job that raises ends its
task, and the nursery hears of it, as if the job had been started there.
"""

from collections.abc import Awaitable, Callable

import outcome
import trio

_MOST_IDLE = 256
"""Tasks kept without a job: what closes at once in a busy forward, and less than a megabyte."""

Job = tuple[Callable[..., Awaitable[None]], tuple[object, ...]]


class Workers:
    """Runs jobs in tasks of ``nursery``, each job alone in a task.

    As a context manager: from the end of the block on no task waits for a job, and each ends with the one it has.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[trio.lowlevel.Task] = []
        self._is_closed = False

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        while self._idle:
            trio.lowlevel.reschedule(self._idle.pop(), outcome.Value(None))

    def start_soon(self, job: Callable[..., Awaitable[None]], *args: object) -> None:
        """As `trio.Nursery.start_soon`."""
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop(), outcome.Value((job, args)))
        else:
            self._nursery.start_soon(self._work, (job, args), name=job)

    async def _work(self, given: Job | None) -> None:
        task = trio.lowlevel.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while given is not None:
            job, args = given
            await job(*args)
            if self._is_closed or len(self._idle) >= _MOST_IDLE:
                return
            del given, args  # an idle task must not keep what its job had
            self._idle.append(task)
            given = await trio.lowlevel.wait_task_rescheduled(leave)
