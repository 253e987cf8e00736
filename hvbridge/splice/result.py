"""What a splice did: byte counts, and why the connection ended."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a connection ended."""

    EOF = "eof"
    """Both directions ended cleanly."""
    RESET_BY_CLIENT = "reset by client"
    """The client reset the connection, or refused data of the upstream."""
    RESET_BY_UPSTREAM = "reset by upstream"
    """The upstream reset the connection, or refused data of the client."""
    IDLE = "idle"
    """No byte went either way for the idle timeout."""
    HALF_CLOSE_TIMEOUT = "half-close timeout"
    """One direction had ended, and no byte went the other way for the half-close timeout."""
    LIFETIME = "lifetime"
    """The connection reached its maximum lifetime."""
    ERROR_ON_CLIENT = "error on client"
    """Another failure of the client's socket, such as a time-out of its keepalive."""
    ERROR_ON_UPSTREAM = "error on upstream"
    """Another failure of the upstream's socket."""
    REFUSED = "refused"
    """The client may not connect, or there was no room for it."""
    DIAL_FAILED = "dial failed"
    """The upstream could not be reached."""
    CLOSED_BY_ADMIN = "closed by admin"
    """Someone closed it by the admin endpoint."""
    SHUTDOWN = "shutdown"
    """The bridge ended before the connection did."""
    INTERNAL_ERROR = "internal error"
    """A fault of the bridge itself; the log tells more."""


@dataclass(slots=True)
class Transfer:
    """Byte counts and outcome of one splice. The counters are live: read them at any time.

    They count bytes as they are received from the side that sent them, so after a failure a few may not have
    reached the other side. ``reason`` and ``detail`` (a sentence, or empty) are set once, at the end.
    """

    client_to_upstream: int = 0
    upstream_to_client: int = 0
    reason: Reason | None = None
    detail: str = ""
    end: Callable[[Reason, str], None] | None = None
    """Ends the connection with a reason and a detail; both sides see a reset. None when it is not being spliced."""
