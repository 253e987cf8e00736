"""Where the server of a run listens, in the three spellings that programs want. Loopback only, by construction."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

# Below the ephemeral range of Linux (32768 and up): a client's port can never take a listener's.
FREE_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Address:
    """An address by kind: `tcp` with a port of 127.0.0.1, `unix` with a path, `vsock` with a port of CID 1."""

    kind: str
    where: str

    def __str__(self) -> str:
        """The load generator's spelling."""
        return {"tcp": "tcp:127.0.0.1:", "unix": "unix:", "vsock": "vsock:1:"}[self.kind] + self.where

    @property
    def url(self) -> str:
        """hvbridge's spelling."""
        return {"tcp": "tcp://127.0.0.1:", "unix": "unix://", "vsock": "vsock://1:"}[self.kind] + self.where


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at the moment."""
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 20000 and 32000 on 127.0.0.1")
