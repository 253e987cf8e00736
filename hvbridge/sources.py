"""Who may connect: sources by network, VM or CID.

Owns: how a source is written, and whether a client is one. Refuses: which kind of source fits a listener (`rules`).
"""

import ipaddress
import uuid
from collections.abc import Sequence

from hvbridge import ids
from hvbridge.wording import quote

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Source = Network | uuid.UUID | int
"""A network of TCP clients, the id of a VM (`ids.HOST` for the host), or the CID of a vsock client."""

Origin = str | uuid.UUID | int | None
"""Where a client comes from: its IP address, its VM, its CID; None where its transport does not tell."""

_HOST_CID = 2
_LARGEST_CID = 2**32 - 1
_FORMS = 'write a network such as "192.0.2.0/24", the GUID of a VM, "host", or a CID'


def parse_source(text: str) -> Source:
    """Read a source. Raises ValueError, with "what is wrong; what to write"."""
    if text == "host":
        return ids.HOST
    if (vm := ids.parse_guid(text)) is not None:
        return vm
    if text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST_CID)):
        return int(text)
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits set" in str(error):
            right = ipaddress.ip_network(text, strict=False)
            raise ValueError(
                f"{quote(text)} has bits beyond its prefix; write {right}, or the address alone"
            ) from None
    raise ValueError(f"{quote(text)} is no source of connections; {_FORMS}")


def source_text(source: Source) -> str:
    """Return the text that `parse_source` reads back as ``source``."""
    return "host" if source == ids.HOST else str(source)


class Sources:
    """Admits the clients that come from one of ``sources``."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._networks = [source for source in sources if isinstance(source, Network)]
        self._others = {source for source in sources if not isinstance(source, Network)}

    def admits(self, origin: Origin) -> bool:
        """Whether a client from ``origin`` may connect; one of unknown origin may not."""
        if isinstance(origin, str):
            address = ipaddress.ip_address(origin.partition("%")[0])
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            return any(address in network for network in self._networks)
        if origin == _HOST_CID and ids.HOST in self._others:  # in a Linux guest, where the host has a CID
            return True
        return origin in self._others
