"""Where endpoints may be used: the rules that apply on every platform. Transports add those of their platform."""

import ipaddress
from uuid import UUID

from hvbridge.address.client_id import Network, Source
from hvbridge.address.endpoint import (
    Endpoint,
    HypervEndpoint,
    NamedHypervEndpoint,
    SystemdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    VsockEndpoint,
)
from hvbridge.hyperv import guid
from hvbridge.hyperv.constants import VMADDR_CID_ANY

_LOCALHOST = {4: "127.0.0.1", 6: "::1"}
_UNSPECIFIED = {4: "0.0.0.0", 6: "::"}


def exposure_fault(endpoint: Endpoint) -> str | None:
    """Return why a listener needs ``expose = true``; None if only this machine can reach it.

    Sockets that systemd binds are governed by its own configuration.
    """
    if not isinstance(endpoint, TcpEndpoint) or _is_loopback(endpoint.host):
        return None
    return (
        f"other machines could connect to {endpoint.host}; write 127.0.0.1 to allow only this machine, "
        "list the permitted clients in allow, or add expose = true"
    )


def source_fault(listen: Endpoint, source: Source) -> str | None:
    """Return why no client of ``listen`` can match ``source``."""
    match listen:
        case TcpEndpoint():
            fits = isinstance(source, Network)
            what = "clients of a TCP listener are matched by network; write one such as 192.0.2.0/24"
        case VsockEndpoint():
            fits = isinstance(source, int)
            what = "clients of a vsock listener are matched by CID; write a number"
        case HypervEndpoint() | NamedHypervEndpoint():
            fits = isinstance(source, UUID)
            what = 'clients of a Hyper-V listener are matched by VM; write the GUID of one, or "host"'
        case SystemdEndpoint():
            return None  # the kind of socket is known only once systemd has passed it
        case _:
            return "this transport does not identify its clients; remove allow"
    return None if fits else what


def connect_fault(endpoint: Endpoint) -> str | None:
    """Return why nothing can connect to ``endpoint``, on any platform."""
    match endpoint:
        case SystemdEndpoint():
            return "systemd:// is only for listeners, which systemd binds; write the address of the service"
        case TcpEndpoint(port=0):
            return (
                "port 0 is only for listeners, where the system picks a port; write the port of the service"
            )
        case TcpEndpoint(host="0.0.0.0" | "::"):
            return f"{endpoint.host} is only for listeners; write 127.0.0.1 for this machine"
        case VsockEndpoint(cid=cid) if cid == VMADDR_CID_ANY:
            return "any is only for listeners; write host, local or the CID of a VM"
        case HypervEndpoint(vm=vm) if vm in (guid.ANY, guid.CHILDREN):
            return f"{guid.vm_text(vm)} is only for listeners; write the name or GUID of one VM, parent or loopback"
    return None


def start_fault(connect: Endpoint) -> str | None:
    """Return why ``start = true`` has no VM to start for ``connect``."""
    wildcard = isinstance(connect, HypervEndpoint) and connect.vm in guid.VM_WILDCARDS.values()
    if isinstance(connect, HypervEndpoint | NamedHypervEndpoint) and not wildcard:
        return None
    return (
        f"{connect} is not on a VM that hvbridge could start; remove start, or connect to hyperv://VM/SERVICE"
    )


def loop_fault(listen: Endpoint, connect: Endpoint) -> str | None:
    """Return a message if a forward would connect to itself."""
    # A partition-relative address differs between the two ends.
    if isinstance(connect, TcpEndpoint | UnixEndpoint) and collide(listen, connect):
        return "the forward listens on this address and would connect to itself; write the address of the service"
    return None


def collide(one: Endpoint, other: Endpoint) -> bool:
    """Whether only one of two listeners could be bound on one machine."""
    if isinstance(one, TcpEndpoint) and isinstance(other, TcpEndpoint):
        return one.port == other.port != 0 and _addresses_collide(one.host, other.host)
    return one == other


def _addresses_collide(one: str, other: str) -> bool:
    if one == other:
        return True
    # Listeners on "::" are IPv6-only, so the two families never collide.
    return any(
        one_address == other_address or _UNSPECIFIED[version] in (one_address, other_address)
        for version, one_address in _addresses(one).items()
        for other_address in [_addresses(other).get(version)]
        if other_address is not None
    )


def _addresses(host: str) -> dict[int, str]:
    """The addresses known without resolving a name, by IP version."""
    if host == "localhost":
        return _LOCALHOST
    try:
        return {ipaddress.ip_address(host).version: host}
    except ValueError:
        return {}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
