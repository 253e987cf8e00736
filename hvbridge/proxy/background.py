"""Background tasks that end nothing but themselves: what one raises is logged, and it is run again."""

import logging
from collections.abc import Awaitable, Callable

import trio

logger = logging.getLogger(__name__)

_PAUSE = 5.0
"""Seconds until a task that failed is run again: soon enough to be of use, and no flood in the log."""


async def run_guarded(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` until it returns, again after whatever it raises but a cancellation; ``name`` is for the log."""
    while True:
        try:
            return await work()
        except Exception as error:
            logger.exception("%s failed, and is run again in %g s: %r", name, _PAUSE, error)
        await trio.sleep(_PAUSE)
