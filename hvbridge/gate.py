"""How many connections a forward may have, and how fast they may come.

Owns: counting places and the rate. Refuses: who may connect (`sources`), and accepting (`forward`).
"""

import math
from collections.abc import Sequence

import trio

from hvbridge.slots import Slots


class Gate:
    """Lets connections in, as places and the rate allow.

    Above the limits they wait in the kernel's backlog, or, where the gate ``refuses``, are taken and cut at once.
    ``places`` are counted each, such as a forward's own and those of all forwards together. ``rate`` is in
    connections a second; up to one second's may come at once.
    """

    def __init__(self, places: Sequence[Slots], rate: float = math.inf, *, refuses: bool = False) -> None:
        self._places = places
        self._rate = rate
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._filled = -math.inf
        self._refuses = refuses

    async def wait(self) -> None:
        """Wait until a connection should be taken."""
        if self._refuses:
            return
        while self._room() < 1:
            for places in self._places:
                await places.wait()
            if self._filled_tokens() < 1:
                await trio.sleep((1 - self._tokens) / self._rate)

    def take(self, at_most: int) -> int:
        """Return how many connections to accept now."""
        return at_most if self._refuses else min(self._room(), at_most)

    def enter(self) -> str:
        """Let one in, who must `leave`, and return ""; else say why there is no room."""
        for places in self._places:
            if places.free <= 0:
                return "as many connections as max_connections allows are open"
        if self._rate < math.inf:
            if self._filled_tokens() < 1:
                return "connections come faster than the rate allows"
            self._tokens -= 1
        for places in self._places:
            places.free -= 1
        return ""

    def leave(self) -> None:
        """Give the place of one back."""
        for places in self._places:
            places.leave()

    def _room(self) -> int:
        free = min(places.free for places in self._places)
        return free if self._rate == math.inf else min(free, int(self._filled_tokens()))

    def _filled_tokens(self) -> float:
        if self._rate < math.inf:
            now = trio.current_time()
            if self._filled > -math.inf:
                self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
        return self._tokens
