"""Background tasks end nothing but themselves."""

import pytest
import trio
import trio.testing

from hvbridge.proxy.background import run_guarded


async def test_what_it_raises_is_logged_and_it_is_run_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug costs some seconds of the task, and nothing of its nursery."""
    begun: list[float] = []

    async def work() -> None:
        begun.append(trio.current_time())
        if len(begun) < 3:
            raise LookupError("a bug")

    await run_guarded("the work", work)
    assert begun == pytest.approx([0, 5, 10])
    assert len(caplog.records) == 2
    assert "the work failed, and is run again in 5 s" in caplog.text


async def test_a_cancellation_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    """It does not keep what is told to end."""
    with trio.move_on_after(1) as scope:
        await run_guarded("the work", trio.sleep_forever)
    assert scope.cancelled_caught
