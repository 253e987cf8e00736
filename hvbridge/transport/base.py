"""The interface of a transport, which dials and listens on endpoints of one kind."""

from typing import Any, Literal, Protocol

from hvbridge.text import Problem
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

Role = Literal["listen", "connect"]
"""How a forward uses an endpoint."""


class Transport(Protocol):
    """Dials and listens on endpoints of one kind."""

    async def dial(self, endpoint: Any, options: DialOptions) -> SocketStream:
        """Connect; the caller sets the deadline. Raises `DialError`."""

    async def listen(self, endpoint: Any, options: ListenOptions) -> list[Listener]:
        """Bind and listen. Raises `ListenError`."""

    def fault(self, endpoint: Any, role: Role) -> Problem | None:
        """Return why ``endpoint`` cannot be used in ``role`` here, and what to write instead; None if it can."""
