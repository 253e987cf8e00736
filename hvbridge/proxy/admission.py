"""How many connections a forward may have, and how fast they may come.

`Admission.wait` is the one wait before an accept. A closed connection, a reload and the passing of time all end it, and
whoever wakes looks at every limit again: so nobody can wait for the wrong one.
"""

import math
from dataclasses import dataclass

import trio

_ALMOST_ONE = 1 - 1e-9
"""Tokens that count as one: sums of floats miss it by a little."""


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What a forward's config says of admission."""

    max_connections: int
    rate: float = math.inf
    """Connections a second; `math.inf` is off. Up to one second's worth may come at once."""
    refuse: bool = False
    """Whether connections above the limits are reset, rather than left in the kernel's backlog."""


class TokenBucket:
    """Gives out ``rate`` tokens a second, and holds at most one second's worth, or one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._filled_at = trio.current_time()

    def available(self) -> int:
        """Return how many tokens there are now."""
        now = trio.current_time()
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return int(self._tokens + 1 - _ALMOST_ONE)

    def next_at(self) -> float:
        """Return when there will be a token, on trio's clock; `math.inf` when there is one already."""
        if self.available():
            return math.inf
        return self._filled_at + (1 - self._tokens) / self.rate

    def take(self) -> None:
        """Take a token, of which there must be one."""
        self._tokens -= 1

    def give_back(self) -> None:
        """Undo a `take`."""
        self._tokens += 1


class SharedLimit:
    """How many connections all forwards may have together."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.in_use = 0
        self.waiting: set[Admission] = set()
        """Those in `Admission.wait`."""

    def resize(self, maximum: int) -> None:
        """Change the limit; open connections stay."""
        self.maximum = maximum
        self.wake()

    def release(self) -> None:
        """Count one connection less."""
        self.in_use -= 1
        if self.in_use == self.maximum - 1:  # it was full: any of them may have waited for this one
            self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        for admission in tuple(self.waiting):
            admission.wake()


class Admission:
    """The limits of one forward, for as long as it serves; a reload changes its policy.

    A connection that `try_acquire` lets in must be given back by `release`.
    """

    def __init__(self, policy: AdmissionPolicy, shared: SharedLimit) -> None:
        self.in_use = 0
        self._policy = policy
        self._shared = shared
        self._bucket = _bucket(policy.rate)
        self._woken = trio.lowlevel.ParkingLot()
        self._waiting = 0

    def update(self, policy: AdmissionPolicy) -> None:
        """Take a new policy, from now on, also for whoever waits. Open connections stay."""
        if policy.rate != self._policy.rate:
            self._bucket = _bucket(policy.rate)
        self._policy = policy
        self.wake()

    async def wait(self) -> None:
        """Wait until a connection should be accepted. Does not checkpoint when that is now."""
        while not self.available(1):
            self._waiting += 1
            self._shared.waiting.add(self)
            try:
                with trio.CancelScope(deadline=math.inf if self._bucket is None else self._bucket.next_at()):
                    await self._woken.park()
            finally:
                self._waiting -= 1
                if not self._waiting:
                    self._shared.waiting.discard(self)

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._woken.unpark_all()

    def available(self, at_most: int) -> int:
        """Return how many connections to accept now."""
        if self._policy.refuse:
            return at_most
        shared = self._shared
        free = min(at_most, self._policy.max_connections - self.in_use, shared.maximum - shared.in_use)
        if self._bucket is not None:
            free = min(free, self._bucket.available())
        return max(free, 0)

    def try_acquire(self) -> str:
        """Let one connection in and return "", or say which limit it exceeds."""
        shared = self._shared
        if self.in_use >= self._policy.max_connections:
            return "max_connections reached"
        if shared.in_use >= shared.maximum:
            return "max_connections of [limits] reached"
        if self._bucket is not None:
            if not self._bucket.available():
                return "rate exceeded"
            self._bucket.take()
        self.in_use += 1
        shared.in_use += 1
        return ""

    def release(self, *, uncounted: bool = False) -> None:
        """Give back what `try_acquire` has let in; ``uncounted`` gives its share of the rate back, too."""
        self.in_use -= 1
        if uncounted and self._bucket is not None:
            self._bucket.give_back()
        if self._waiting:
            self.wake()
        self._shared.release()


def _bucket(rate: float) -> TokenBucket | None:
    return None if rate == math.inf else TokenBucket(rate)
