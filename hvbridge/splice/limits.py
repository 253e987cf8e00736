"""How long a spliced connection may last, and how fast it may be."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a connection is reset, and a bandwidth; `math.inf` is off.

    ``idle_timeout`` counts from the last byte either way. ``half_close_timeout`` counts likewise, but only once one
    direction has ended. ``max_lifetime`` counts from the start.
    """

    idle_timeout: float = math.inf
    half_close_timeout: float = math.inf
    max_lifetime: float = math.inf
    bandwidth: float = math.inf
    """Bytes a second, each way."""
    shortest: float = field(init=False)
    """The least of the three times."""

    def __post_init__(self) -> None:
        shortest = min(self.idle_timeout, self.half_close_timeout, self.max_lifetime)
        object.__setattr__(self, "shortest", shortest)
