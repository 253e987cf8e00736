"""A pytest plugin: a test that takes too long fails, with the traceback of where it was, and the run goes on."""

import _thread
import threading
from collections.abc import Generator

import pytest

SECONDS = 300


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Interrupt the test once its time is up; trio hands the interrupt to the test's own task."""
    expired = threading.Event()

    def interrupt() -> None:
        expired.set()
        _thread.interrupt_main()

    timer = threading.Timer(SECONDS, interrupt)
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    except BaseException as error:
        # An exception group when it passed through a nursery, so do not ask for its type.
        if expired.is_set():
            raise TimeoutError(f"{item.nodeid} took longer than {SECONDS} s") from error
        raise
    finally:
        timer.cancel()
