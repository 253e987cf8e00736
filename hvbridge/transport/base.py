"""What a transport is: one way to reach the endpoints of one kind.

Owns: the interface. Refuses: everything else; the modules beside this one implement it.
"""

from typing import Any, Literal, Protocol

from hvbridge.text import Problem
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

Role = Literal["listen", "connect"]
"""What a forward wants of an endpoint."""


class Transport(Protocol):
    """Dials and listens on endpoints of one kind."""

    async def dial(self, endpoint: Any, options: DialOptions) -> SocketStream:
        """Connect, without a deadline of its own. Raises `DialError`."""

    async def listen(self, endpoint: Any, options: ListenOptions) -> list[Listener]:
        """Bind and listen. Raises `ListenError`."""

    def fault(self, endpoint: Any, role: Role) -> Problem | None:
        """Say why ``endpoint`` cannot be used in ``role`` here, and what to write instead."""
