"""A pool of tasks: making, scheduling and ending one costs more than twice as much as waking one.

Jobs begin in the order in which they were started: a task takes the oldest job only when it runs. (trio runs the tasks
of a batch in either order.) A job that raises ends its task, and the nursery hears of it, as if it had been started
there.
"""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

_MAX_IDLE = 256
"""Tasks kept without a job: what closes at once in a busy forward, and less than a megabyte."""

Job = tuple[Callable[..., Awaitable[None]], tuple[object, ...]]


class TaskPool:
    """Runs jobs in tasks of ``nursery``, each job alone in a task.

    As a context manager: from the end of the block on no task waits for a job, and each ends with the one it has.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._jobs: deque[Job] = deque()
        """Not begun yet; for each, a task has been woken or made."""
        self._idle: list[trio.lowlevel.Task] = []
        self._is_closed = False

    def __enter__(self) -> "TaskPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        while self._idle:
            trio.lowlevel.reschedule(self._idle.pop())

    def start_soon(self, job: Callable[..., Awaitable[None]], *args: object) -> None:
        """As `trio.Nursery.start_soon`; jobs begin in order, up to their first wait."""
        self._jobs.append((job, args))
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        else:
            self._nursery.start_soon(self._work, name=job)

    async def _work(self) -> None:
        task = trio.lowlevel.current_task()

        def on_cancel(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while self._jobs:  # empty when woken to end
            job, args = self._jobs.popleft()
            await job(*args)
            if self._is_closed or len(self._idle) >= _MAX_IDLE:
                return
            del job, args  # an idle task must not keep what its job had
            self._idle.append(task)
            await trio.lowlevel.wait_task_rescheduled(on_cancel)
