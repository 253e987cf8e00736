"""The identity of a client, and the sources that `allow` lists: networks, VMs and CIDs."""

import ipaddress
import uuid

from hvbridge.hyperv import guid
from hvbridge.text import quote

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Source = Network | uuid.UUID | int
"""A network of TCP clients, the id of a VM (`guid.HOST` for the host), or the CID of a vsock client."""

ClientId = str | uuid.UUID | int | None
"""The identity of a client: its IP address, VM or CID; None if its transport does not report it."""

_LARGEST_CID = 2**32 - 1
_MAPPED_PREFIX = 96
"""Bits of ::ffff:0:0/96, below which IPv4 addresses are mapped (RFC 4291)."""
_FORMS = 'write a network such as "192.0.2.0/24", the GUID of a VM, "host", or a CID'


def parse_source(text: str) -> Source:
    """Read a source. Raises ValueError, with "what is wrong; what to write"."""
    if text == "host":
        return guid.HOST
    if (vm := guid.parse_guid(text)) is not None:
        return vm
    if text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST_CID)):
        return int(text)
    try:
        return _unmapped(ipaddress.ip_network(text))
    except ValueError as error:
        if "host bits set" in str(error):
            right = ipaddress.ip_network(text, strict=False)
            raise ValueError(
                f"{quote(text)} has host bits set; write {right}, or the address without a prefix"
            ) from None
    raise ValueError(f"{quote(text)} is not a source; {_FORMS}")


def _unmapped(network: Network) -> Network:
    """A network of IPv4-mapped addresses as the IPv4 network that it is: clients are compared as such."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))


def source_text(source: Source) -> str:
    """Return the text that `parse_source` reads back as ``source``."""
    return "host" if source == guid.HOST else str(source)
