"""How the fates of two directions make the fate of one connection.

Owns: the rules of ending, which both ways of moving bytes follow. Refuses: bytes, sockets, tasks.

Side 0 is the client and side 1 the upstream. A direction is named by the side whose data it carries: it is read
from ``side`` and written to ``1 - side``.

The rules:

- A direction ends *cleanly* when its EOF has been passed on. When both have ended, so has the pair.
- A failed *read* ends the pair at once: what that side had sent was passed on already, the rest does not exist.
- A failed *write* ends only its own direction. A peer that takes no more may still have answered (an HTTP server
  that refuses an upload), and those bytes can still go to the other side; so the answer's direction goes on
  to its own end, which comes at once if the peer is gone.
- A pair that ended by a failure or a limit is *cut*: both sides see a reset. It is closed instead when nothing but
  a write failed and the answer is known to be complete: a reset would destroy the part of it that the kernel still
  holds. It is known to be complete when it had ended before, or when the write failed with EPIPE: a reset that
  follows the peer's FIN, or a Unix peer that left; a reset amid the peer's data is ECONNRESET.
"""

import errno
import math

from hvbridge.splice.limits import Limits
from hvbridge.splice.result import Reason, Transfer

CLIENT, UPSTREAM = 0, 1

_RESETS = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ESHUTDOWN})
"""What a peer that reset the connection looks like. ENOTCONN comes from shutdown() after the reset; EPIPE is also
what Windows reports for a Hyper-V peer that left without a shutdown (ERROR_BROKEN_PIPE)."""

_RESET_BY = (Reason.RESET_BY_CLIENT, Reason.RESET_BY_UPSTREAM)
_ERROR_ON = (Reason.ERROR_ON_CLIENT, Reason.ERROR_ON_UPSTREAM)


class Pair:
    """The state of one splice apart from its bytes."""

    __slots__ = (
        *("_fault", "_open"),
        *("active", "cut", "due", "half_closed", "limits", "look", "over", "started", "transfer"),
    )

    def __init__(self, limits: Limits, transfer: Transfer, now: float) -> None:
        self.limits = limits
        self.transfer = transfer
        transfer.end = self.end
        self.started = now
        self.active = now
        """When a byte last moved; the implementation keeps it."""
        self.over = False
        self.cut = False
        """Whether the two sides must see a reset."""
        self.due = math.inf
        self.look = 0
        """When the watch will look next, and the number of that look; the watch keeps both."""
        self.half_closed = False
        """Whether just one direction has ended."""
        self._open = [True, True]
        self._fault: tuple[Reason, str] | None = None

    # What may happen. What happens to a pair that is over changes nothing.

    def received(self, side: int, count: int, now: float) -> None:
        """``side`` sent ``count`` bytes."""
        if side == CLIENT:
            self.transfer.client_to_upstream += count
        else:
            self.transfer.upstream_to_client += count
        self.active = now

    def ended(self, side: int, now: float) -> None:
        """The data of ``side`` ended cleanly, and its EOF has been passed on."""
        if self.over:
            return
        self._open[side] = False
        self.active = now
        self.half_closed = self._open[1 - side]
        if not self.half_closed:
            self._finish()

    def lost(self, side: int, error: OSError | None) -> None:
        """Reading from ``side`` failed; ``error`` is None where the stream does not tell."""
        if self.over:
            return
        self._blame(side, error)
        self.cut = True
        self._finish()

    def refused(self, side: int, error: OSError | None, now: float) -> None:
        """Writing to ``side`` failed, so that the other side's data has nowhere to go."""
        if self.over:
            return
        self._blame(side, error)
        if self._open[side] and (error is None or error.errno != errno.EPIPE):
            self.cut = True
        self.ended(1 - side, now)

    def overdue(self, now: float) -> bool:
        """Whether the pair is over by ``now``; it is finished here if a limit says so."""
        limits = self.limits
        if self.over:
            return True
        if now >= self.started + limits.max_lifetime:
            fault = Reason.LIFETIME, f"open for {limits.max_lifetime:g} s"
        elif self.half_closed and now >= self.active + limits.half_close_timeout:
            fault = (
                Reason.HALF_CLOSE_TIMEOUT,
                f"one direction ended, and no byte the other way for {limits.half_close_timeout:g} s",
            )
        elif now >= self.active + limits.idle_timeout:
            fault = Reason.IDLE, f"no byte either way for {limits.idle_timeout:g} s"
        else:
            return False
        self._fault = self._fault or fault
        self.cut = True
        self._finish()
        return True

    def end(self, reason: Reason, detail: str) -> None:
        """Cut the pair, as someone wants it."""
        if self.over:
            return
        self._fault = self._fault or (reason, detail)
        self.cut = True
        self._finish()

    def finish(self) -> None:
        """Act on the end, as an implementation does; called once, when the pair is over."""

    # What may be asked.

    def next_due(self) -> float:
        """When the earliest limit will be over if no byte moves until then."""
        limits = self.limits
        quiet = limits.idle_timeout
        if self.half_closed:
            quiet = min(quiet, limits.half_close_timeout)
        return min(self.started + limits.max_lifetime, self.active + quiet)

    def _finish(self) -> None:
        self.over = True
        self.transfer.end = None
        self.transfer.reason, self.transfer.detail = self._fault or (Reason.EOF, "")
        self.finish()

    def _blame(self, side: int, error: OSError | None) -> None:
        if self._fault is None:
            reasons = _RESET_BY if error is None or error.errno in _RESETS else _ERROR_ON
            self._fault = reasons[side], "" if error is None else str(error)
