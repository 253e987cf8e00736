"""Moving the bytes of a connection between its client and its upstream, both ways, until both have ended.

`open_splicer` picks the implementation: portable pumps, or on Linux epoll and splice(2). Both keep the same promises
and pass the same tests.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from hvbridge.splice.limits import Limits
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.result import Reason, Transfer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.stream import Stream

if sys.platform == "linux":
    from hvbridge.splice.epoll import EpollSplicer

__all__ = ["Limits", "Reason", "Splicer", "Transfer", "open_splicer"]


class Splicer(Protocol):
    """Moves the bytes of any number of connections."""

    async def splice(self, client: Stream, upstream: Stream, limits: Limits, transfer: Transfer) -> None:
        """Move bytes both ways until the connection has ended, and record counts and reason in ``transfer``.

        Owns both streams from the call on and closes both, however it ends: cleanly after both directions ended
        cleanly, by `Stream.abort` after a failure, a limit or a cancellation. EOF is passed on, and the other
        direction lives on until its own. A reset of one side is a reset for the other, never a clean EOF.

        What a peer or a limit does is told by ``transfer.reason`` and ``transfer.detail``, and raises nothing.
        """


@asynccontextmanager
async def open_splicer() -> AsyncIterator[Splicer]:
    """Open the best splicer for this system.

    Every `Splicer.splice` must have returned before the block is left.
    """
    timeouts = TimeoutQueue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        if sys.platform == "linux":
            splicer = EpollSplicer(timeouts)
            nursery.start_soon(splicer.run)
            yield splicer
        else:
            yield PortableSplicer(timeouts)
        nursery.cancel_scope.cancel()
