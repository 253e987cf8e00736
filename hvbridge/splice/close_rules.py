"""How two one-way closes combine into one connection close.

`CloseState` holds the rules, which every splicer follows. It knows no bytes, sockets or tasks.

Side 0 is the client and side 1 the upstream. A direction is named by the side whose data it carries: it is read
from ``side`` and written to ``1 - side``.

The rules:

- A direction ends *cleanly* when its EOF has been passed on. When both have ended, so has the connection.
- A failed *read* ends the connection at once: what that side had sent was passed on already, the rest does not exist.
- A failed *write* ends only its own direction. A peer that takes no more may still have answered (an HTTP server
  that refuses an upload), and those bytes can still go to the other side; so the answer's direction goes on
  to its own end, which comes at once if the peer is gone.
- A connection that ended by a failure or a limit is *reset*, on both sides. It is closed instead when nothing but
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


class CloseState:
    """How far one connection has closed, and why. A splicer reports events to it and overrides `finish`."""

    __slots__ = (
        "_cause",
        "_open",
        "entry_id",
        "half_closed",
        "last_activity",
        "limits",
        "next_check",
        "over",
        "reset",
        "started",
        "transfer",
    )

    def __init__(self, limits: Limits, transfer: Transfer, now: float) -> None:
        self.limits = limits
        self.transfer = transfer
        transfer.end = self.end
        self.started = now
        self.last_activity = now
        """When a byte last moved."""
        self.over = False
        self.reset = False
        """True if both sides must see a reset."""
        self.half_closed = False
        """True while exactly one direction has ended."""
        self._open = [True, True]
        self._cause: tuple[Reason, str] | None = None
        self.next_check = math.inf
        self.entry_id = 0
        """The `TimeoutQueue`'s entry for this connection, and when it is due."""

    # Events. Once the connection is over, they change nothing.

    def received(self, side: int, count: int, now: float) -> None:
        """``side`` sent ``count`` bytes."""
        if side == CLIENT:
            self.transfer.client_to_upstream += count
        else:
            self.transfer.upstream_to_client += count
        self.last_activity = now

    def on_eof(self, side: int, now: float) -> None:
        """The data of ``side`` ended cleanly, and its EOF has been passed on."""
        if not self.over:
            self._end_direction(side, now)

    def on_read_error(self, side: int, error: OSError | None) -> None:
        """Reading from ``side`` failed; ``error`` is None where the stream does not tell."""
        if self.over:
            return
        self._blame(side, error)
        self.reset = True
        self._finish()

    def on_write_error(self, side: int, error: OSError | None, now: float) -> None:
        """Writing to ``side`` failed, so that the other side's data has nowhere to go."""
        if self.over:
            return
        self._blame(side, error)
        if self._open[side] and (error is None or error.errno != errno.EPIPE):
            self.reset = True
        self._end_direction(1 - side, now)

    def check_limits(self, now: float) -> bool:
        """Finish the connection if a limit has passed. True if it is over."""
        limits = self.limits
        if self.over:
            return True
        if now >= self.started + limits.max_lifetime:
            cause = Reason.LIFETIME, f"open for {limits.max_lifetime:g} s"
        elif self.half_closed and now >= self.last_activity + limits.half_close_timeout:
            cause = (
                Reason.HALF_CLOSE_TIMEOUT,
                f"one direction ended, and no byte the other way for {limits.half_close_timeout:g} s",
            )
        elif now >= self.last_activity + limits.idle_timeout:
            cause = Reason.IDLE, f"no byte either way for {limits.idle_timeout:g} s"
        else:
            return False
        self.end(*cause)
        return True

    def end(self, reason: Reason, detail: str) -> None:
        """Reset the connection for ``reason``, unless a failure already explains its end."""
        if self.over:
            return
        self._cause = self._cause or (reason, detail)
        self.reset = True
        self._finish()

    def finish(self) -> None:
        """Release what the splicer holds for this connection. Called once, when it is over."""

    def next_deadline(self) -> float:
        """When the earliest limit passes if no more bytes move."""
        limits = self.limits
        quiet = limits.idle_timeout
        if self.half_closed:
            quiet = min(quiet, limits.half_close_timeout)
        return min(self.started + limits.max_lifetime, self.last_activity + quiet)

    def _end_direction(self, side: int, now: float) -> None:
        self._open[side] = False
        self.last_activity = now
        self.half_closed = self._open[1 - side]
        if not self.half_closed:
            self._finish()

    def _finish(self) -> None:
        self.over = True
        self.transfer.end = None
        self.transfer.reason, self.transfer.detail = self._cause or (Reason.EOF, "")
        self.finish()

    def _blame(self, side: int, error: OSError | None) -> None:
        if self._cause is None:
            reasons = _RESET_BY if error is None or error.errno in _RESETS else _ERROR_ON
            self._cause = reasons[side], "" if error is None else str(error)
