"""Endpoints: the syntax of `tcp://`, `unix://`, `vsock://`, `hyperv://` and `systemd://`, and their canonical form.

Only parses and prints: where an endpoint may be used is decided elsewhere, VM names are not resolved, and a service
registry is queried only for a name that is not in the syntax. No heavy imports: `hvbridge connect` waits for this
module.
"""

import ipaddress
import re
import uuid
from dataclasses import dataclass, field
from typing import Final

from hvbridge.hyperv import guid
from hvbridge.hyperv.constants import VMADDR_CID_ANY, VMADDR_CID_HOST, VMADDR_CID_LOCAL, VMADDR_PORT_ANY
from hvbridge.hyperv.services import RegistrationError, Service, ServiceNames, find
from hvbridge.text import nearest, printable, quote

_CIDS: Final = {"any": VMADDR_CID_ANY, "host": VMADDR_CID_HOST, "local": VMADDR_CID_LOCAL}
_CID_NAMES: Final = {cid: name for name, cid in _CIDS.items()}

_MAX_TCP_PORT: Final = 0xFFFF
_MAX_UNIX_PATH: Final = 107
"""Bytes: sun_path holds 108 with the closing zero on Linux and Windows (104 on macOS and the BSDs)."""

_MAX_HOST_NAME: Final = 253
MAX_NAME: Final = 100
"""Characters that Hyper-V allows in the name of a VM; the same limit applies to services."""
_MAX_DIGITS: Final = 20
"""Digits of a number with leading zeros: more than any needs, fewer than `int` rejects."""

_SCHEMES: Final = ("tcp", "hyperv", "vsock", "unix", "systemd")
_SPELLINGS: Final = (
    "HOST:PORT, tcp://HOST:PORT, hyperv://VM/SERVICE, vsock://CID:PORT, unix:///PATH or systemd://NAME"
)

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_READ_AS_IPV4: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
"""What the resolver would read as an IPv4 address in an old notation: `127.1`, `0x7f000001`."""
_IPV6: Final = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]")
_SYSTEMD_NAME: Final = re.compile(r"[ -9;-~]{1,255}")
"""The values that FileDescriptorName= of systemd.socket(5) allows."""
_ALMOST_GUID: Final = re.compile(r"[{]?[0-9a-fA-F-]{20,}[}]?|[{].*|.*[}]")


_GUID_FORM: Final = "write 8-4-4-4-12 hexadecimal digits"
_VM_CHOICES: Final = "any, children, parent or loopback"
_SERVICE_CHOICES: Final = "a GUID, a vsock port, ssh or xrdp"


class EndpointError(ValueError):
    """A text is not an endpoint; the message is "what is wrong; what to write"."""


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A TCP address. ``host`` is an IPv4 or IPv6 address (without brackets) or a name, resolved at dial."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A Unix-domain stream socket at an absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class VsockEndpoint:
    """An AF_VSOCK address of Linux: a context id and a port, both 32 bits."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock://{_CID_NAMES.get(self.cid, self.cid)}:{self.port}"


@dataclass(frozen=True, slots=True)
class HypervEndpoint:
    """A Hyper-V socket address: the VM (or one of `guid.VM_WILDCARDS`) and the service there."""

    vm: uuid.UUID
    service: uuid.UUID
    service_name: str = field(default="", compare=False)
    """The registered name, if the service was written by it."""

    def __str__(self) -> str:
        return f"hyperv://{guid.vm_text(self.vm)}/{self.service_name or guid.service_text(self.service)}"


@dataclass(frozen=True, slots=True)
class NamedHypervEndpoint:
    """A Hyper-V socket address with the name of a VM, which the host resolves when it is used."""

    vm: str
    service: uuid.UUID
    service_name: str = field(default="", compare=False)
    """As `HypervEndpoint.service_name`."""

    def at(self, vm: uuid.UUID) -> HypervEndpoint:
        """Return the address with the id of the VM that the name stands for."""
        return HypervEndpoint(vm, self.service, self.service_name)

    def __str__(self) -> str:
        return f"hyperv://{self.vm}/{self.service_name or guid.service_text(self.service)}"


@dataclass(frozen=True, slots=True)
class SystemdEndpoint:
    """The listening sockets that systemd passes under a name: the FileDescriptorName= of a .socket unit."""

    name: str

    def __str__(self) -> str:
        return f"systemd://{self.name}"


Endpoint = TcpEndpoint | UnixEndpoint | VsockEndpoint | HypervEndpoint | NamedHypervEndpoint | SystemdEndpoint


def parse_endpoint(text: str, services: ServiceNames | None = None) -> Endpoint:
    """Parse an endpoint; its ``str()`` is the canonical form, which parses to the same endpoint.

    Args:
        text: the endpoint as written.
        services: the registered services, to look up names; None if this machine has none.

    Raises:
        EndpointError: the text is not an endpoint. No other exception is raised for any text.
    """
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        return _bare(text)
    match scheme.lower():
        case "tcp":
            return _tcp(rest)
        case "hyperv":
            return _hyperv(rest, services)
        case "vsock":
            return _vsock(rest)
        case "unix":
            return _unix(rest)
        case "systemd":
            return _systemd(rest)
    near = nearest(scheme, _SCHEMES)
    advice = f"did you mean {near}://?" if near else f"write {_SPELLINGS}"
    raise EndpointError(f"{quote(scheme + '://')} is not a scheme; {advice}")


def _bare(text: str) -> TcpEndpoint:
    if not text:
        raise EndpointError(f"an endpoint cannot be empty; write {_SPELLINGS}")
    if text.startswith("/"):
        raise EndpointError(f"{quote(text)} has no scheme; write {quote('unix://' + text)}")
    scheme, _, rest = text.partition(":")
    if scheme.lower() in _SCHEMES and not rest.isdigit():
        raise EndpointError(f"{quote(text)} is missing // after {scheme}:; write {_SPELLINGS}")
    if ":" not in text and "/" in text:
        raise EndpointError(f"{quote(text)} has no scheme; write {quote('hyperv://' + text)}")
    return _tcp(text)


def _tcp(text: str) -> TcpEndpoint:
    host, has_port, port = text.rpartition(":")
    if not has_port or port.endswith("]"):
        if _is_decimal(text):
            raise EndpointError(f"{quote(text)} is a port without a host; write {quote('127.0.0.1:' + text)}")
        raise EndpointError(f"{quote(text)} has no port; write HOST:PORT, as in 127.0.0.1:22")
    number = _number("TCP port", port, _MAX_TCP_PORT)
    return TcpEndpoint(_host(host, number), number)


def _host(text: str, port: int) -> str:
    if text in ("", "*"):
        what = "* is not a host" if text else "the host is missing"
        raise EndpointError(
            f"{what}; write 127.0.0.1:{port} for this machine only, "
            f"or 0.0.0.0:{port} or [::]:{port} for all interfaces"
        )
    if ":" in text or "[" in text:
        match = _IPV6.fullmatch(text)
        try:
            return str(ipaddress.IPv6Address(match[1] if match else ""))
        except ValueError:
            raise EndpointError(
                f"{quote(text)} is not an IPv6 address in brackets; write it as in [::1]:{port}"
            ) from None
    if _READ_AS_IPV4.fullmatch(text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise EndpointError(
                f"{quote(text)} is not an IPv4 address; write four numbers from 0 to 255, as in 127.0.0.1"
            ) from None
    if not _HOST_NAME.fullmatch(text) or len(text) > _MAX_HOST_NAME:
        raise EndpointError(
            f"{quote(text)} is not a host; write an IP address or a name of letters, digits, hyphens and dots"
        )
    return text.lower()


def _unix(path: str) -> UnixEndpoint:
    if not path.startswith("/"):
        what = f"{quote(path)} is not an absolute path" if path else "the path is missing"
        raise EndpointError(f"{what}; write it with three slashes, as in unix:///run/app.sock")
    if path.endswith("/"):
        raise EndpointError(
            f"{quote(path)} is a directory; write the path of a socket, as in unix:///run/app.sock"
        )
    if not path.isprintable():
        # NUL ends a path for the kernel, and a newline begins a line of whatever the endpoint is written to.
        raise EndpointError(f"{quote(path)} contains an unprintable character; remove it")
    size = len(path.encode("utf-8", "replace"))
    if size > _MAX_UNIX_PATH:
        raise EndpointError(
            f"the path is {size} bytes long, but a socket address holds {_MAX_UNIX_PATH}; write a shorter path"
        )
    return UnixEndpoint(path)


def _systemd(name: str) -> SystemdEndpoint:
    if not _SYSTEMD_NAME.fullmatch(name):
        what = f"{quote(name)} is not the name of a socket" if name else "the name is missing"
        raise EndpointError(
            f"{what}; write the FileDescriptorName= of a .socket unit: up to 255 ASCII characters without a colon"
        )
    return SystemdEndpoint(name)


def _vsock(text: str) -> VsockEndpoint:
    cid, has_port, port = text.partition(":")
    if not has_port:
        raise EndpointError(f"{quote(text)} is not a CID and a port; write CID:PORT, as in vsock://any:22")
    return VsockEndpoint(_cid(cid), _number("vsock port", port, VMADDR_PORT_ANY - 1))


def _cid(text: str) -> int:
    cid = _CIDS.get(text.lower())
    if cid is not None:
        return cid
    if _is_decimal(text):
        return _number("CID", text, VMADDR_CID_ANY)
    if text == "-1":  # the notation of xrdp and C programs
        raise EndpointError('"-1" is not a CID; did you mean any?')
    near = nearest(text, _CIDS)
    advice = (
        f"did you mean {near}?" if near else f"write any, host, local or a number from 0 to {VMADDR_CID_ANY}"
    )
    raise EndpointError(f"{quote(text)} is not a CID; {advice}")


def _hyperv(text: str, services: ServiceNames | None) -> HypervEndpoint | NamedHypervEndpoint:
    vm, has_service, service = text.partition("/")
    if not has_service:
        vm, has_colon, service = text.rpartition(":")  # as in the other schemes
        right = f"hyperv://{vm}/{service}" if has_colon else "hyperv://VM/SERVICE, as in hyperv://parent/ssh"
        raise EndpointError(f"{quote(text)} is not a VM and a service; write {printable(right)}")
    where = _vm(vm)
    if isinstance(where, str):
        return NamedHypervEndpoint(where, *parse_service(service, services))
    return HypervEndpoint(where, *parse_service(service, services))


def _vm(text: str) -> uuid.UUID | str:
    """Parse the VM: an id, or a name as written."""
    vm = guid.VM_WILDCARDS.get(text.lower()) or guid.parse_guid(text)
    if vm == guid.BROADCAST:
        raise EndpointError(
            "broadcast cannot carry a stream; write a VM's GUID, or children to listen for all VMs"
        )
    if vm is not None:
        return vm
    if not text:
        raise EndpointError(f"the VM is missing; write its name or GUID, or {_VM_CHOICES}")
    if _ALMOST_GUID.fullmatch(text):
        raise EndpointError(f"{quote(text)} is not a complete GUID; {_GUID_FORM}")
    if not _is_name(text):
        raise EndpointError(
            f"{quote(text)} is not a VM name; write the name that Get-VM shows, or the VM's GUID"
        )
    return text


def parse_service(text: str, services: ServiceNames | None = None) -> Service:
    """Parse a service: a GUID, a vsock port or a well-known name (no service name results), or a name in ``services``.

    Raises:
        EndpointError: it is none of them.
    """
    known = guid.WELL_KNOWN_SERVICES.get(text.lower())
    if known is not None:
        if not known.forwardable:
            raise EndpointError(f"{quote(text)} is {known.note}; use Enter-PSSession -VMId instead")
        return Service(known.id, "")
    if _is_decimal(text):
        return Service(guid.service_id_of_port(_number("vsock port", text, guid.MAX_VSOCK_PORT)), "")
    service_id = guid.parse_guid(text)
    if service_id is not None:
        return Service(service_id, "")
    if not text:
        raise EndpointError(f"the service is missing; write {_SERVICE_CHOICES}")
    if _ALMOST_GUID.fullmatch(text):
        raise EndpointError(f"{quote(text)} is not a complete GUID; {_GUID_FORM}")
    registered = [] if services is None or not is_service_name(text) else _registered(text, services)
    try:
        found = find(text, registered)
    except ValueError as error:
        raise EndpointError(str(error)) from None
    if found is not None:
        return found
    if text.lower() == "rdp":
        raise EndpointError(
            "Windows has no Hyper-V service for RDP; run hvbridge in the guest to forward a service GUID of "
            "your own to tcp://127.0.0.1:3389, or write xrdp for a Linux guest"
        )
    names = [name for name, known in guid.WELL_KNOWN_SERVICES.items() if known.forwardable]
    near = nearest(text, [*names, *(service.name for service in registered if is_service_name(service.name))])
    if near:
        advice = f"did you mean {near}?"
    elif not is_service_name(text):
        advice = f"write {_SERVICE_CHOICES}"
    elif services is None:
        advice = f"write {_SERVICE_CHOICES}; other names exist only on a Hyper-V host"
    else:
        advice = f"write {_SERVICE_CHOICES}, or register it first: hvbridge services register NAME"
    raise EndpointError(f"{quote(text)} is not a service; {advice}")


def is_service_name(text: str) -> bool:
    """Whether ``text`` can be used in an endpoint as the name of a registered service."""
    return _is_name(text) and "/" not in text and not _is_decimal(text) and not _ALMOST_GUID.fullmatch(text)


def _registered(name: str, services: ServiceNames) -> list[Service]:
    try:
        return services.services()
    except RegistrationError as error:
        raise EndpointError(
            f"the service {quote(name)} cannot be looked up: {error}; fix that, or write {_SERVICE_CHOICES}"
        ) from error


def _is_name(text: str) -> bool:
    return text == text.strip() and text.isprintable() and 0 < len(text) <= MAX_NAME


def _number(what: str, text: str, maximum: int) -> int:
    # int() alone would accept "1_000", " 22" and digits of other scripts, and fail on thousands of digits.
    if not _is_decimal(text) or len(text) > _MAX_DIGITS or int(text) > maximum:
        raise EndpointError(f"{quote(text)} is not a {what}; write a number from 0 to {maximum}")
    return int(text)


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
