"""Tasks that are used again: one job at a time, an end with their owner's, and a nursery that hears of failures."""

import gc
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from hvbridge.proxy import task_pool
from hvbridge.proxy.task_pool import TaskPool

Task = trio.lowlevel.Task


class Jobs:
    """Jobs that note the task that they run in, and go on when told."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.go_on = trio.Event()

    async def short(self) -> None:
        self.tasks.append(trio.lowlevel.current_task())

    async def long(self) -> None:
        self.tasks.append(trio.lowlevel.current_task())
        await self.go_on.wait()


async def test_a_task_that_is_done_takes_the_next_job(nursery: trio.Nursery) -> None:
    """Jobs that come one after the other run in one task."""
    jobs = Jobs()
    with TaskPool(nursery) as pool:
        for _ in range(3):
            pool.start_soon(jobs.short)
            await trio.testing.wait_all_tasks_blocked()
    assert len(jobs.tasks) == 3
    assert len(set(jobs.tasks)) == 1


async def test_no_job_waits_for_another(nursery: trio.Nursery) -> None:
    """Jobs at the same time each have a task of their own, whether a task is idle or not."""
    jobs = Jobs()
    with TaskPool(nursery) as pool:
        pool.start_soon(jobs.short)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            pool.start_soon(jobs.long)
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(jobs.tasks[1:])) == 3
        jobs.go_on.set()


async def test_jobs_begin_in_order(nursery: trio.Nursery) -> None:
    """Jobs of one moment begin in the order in which they were started, in idle tasks and in new ones."""
    order: list[int] = []

    async def job(number: int) -> None:
        order.append(number)
        await trio.lowlevel.checkpoint()

    with TaskPool(nursery) as pool:
        for batch in range(20):  # trio runs a batch in either order, as chance has it
            for number in range(5):
                pool.start_soon(job, 5 * batch + number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(100))


async def test_idle_tasks_are_kept_up_to_a_limit(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a burst, what is more than may be idle ends."""
    monkeypatch.setattr(task_pool, "_MAX_IDLE", 2)
    jobs = Jobs()
    with TaskPool(nursery) as pool:
        for _ in range(5):
            pool.start_soon(jobs.long)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 5
        jobs.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2


async def test_at_the_end_the_idle_end_at_once_and_the_busy_after_their_job() -> None:
    """The nursery is done when the last job is, which the end of the block does not disturb."""
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        with TaskPool(nursery) as pool:
            pool.start_soon(jobs.short)
            pool.start_soon(jobs.long)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        jobs.go_on.set()


async def test_a_failure_is_the_nurserys() -> None:
    """A job that raises ends its task, also one that had jobs before, and its nursery."""

    async def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.RaisesGroup(RuntimeError):
        async with trio.open_nursery() as nursery:
            with TaskPool(nursery) as pool:
                pool.start_soon(Jobs().short)
                await trio.testing.wait_all_tasks_blocked()
                pool.start_soon(fail)
                await trio.sleep_forever()


async def test_cancelling_the_nursery_ends_idle_and_busy() -> None:
    """Cancellation reaches every task, and the block can still end afterwards."""
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        with TaskPool(nursery) as pool:
            pool.start_soon(jobs.short)
            pool.start_soon(jobs.long)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_an_idle_task_keeps_nothing_of_its_job(nursery: trio.Nursery) -> None:
    """What a job was given can go once it is done."""

    class Client:
        pass

    def give(start: Callable[..., None]) -> weakref.ref[Client]:
        async def job(client: Client) -> None:
            await trio.lowlevel.checkpoint()

        client = Client()
        start(job, client)
        return weakref.ref(client)

    with TaskPool(nursery) as pool:
        gone = give(pool.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None
