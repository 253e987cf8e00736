"""PROXY protocol, versions 1 and 2: the header that says who a connection's client is, before its bytes.

A header is read to its last byte and no further. The caller decides whom to trust, and sets a deadline, as a proxy may
stay silent. Checksums are ignored, as TCP has its own. Source: HAProxy, doc/proxy-protocol.txt, of 2020/03/05.
"""

import re
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

import trio

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.text import quote
from hvbridge.transport.stream import SocketStream

Version = Literal["v1", "v2"]

VM_TLV: Final = 0xE6
"""The id of the VM, as text: 36 characters in lower case."""
FORWARD_TLV: Final = 0xE7
"""The name of the forward. Both types are from the range for applications, and not those that clouds have taken
there: 0xE0 (Google), 0xEA (Amazon), 0xEE (Microsoft)."""

_V1: Final = b"PROXY "
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V1_LONGEST: Final = 107
"""Bytes, with the line's end."""
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\n]*)?|TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) "
    + _PORT
    + b" "
    + _PORT
    + rb")\r\n"
)
_MAX_PORT: Final = 0xFFFF

_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = struct.Struct("!12sBBH")
"""Of version 2: signature, version and command, family and transport, length of the rest."""
_LOCAL: Final = 0
_PROXY: Final = 1
_VERSION_2: Final = 2 << 4
_TCP: Final = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}
"""The addresses of TCP over IPv4 and over IPv6, by family and transport."""
_ADDRESS_SIZES: Final = (0, 12, 36, 216)
"""Bytes that the addresses of a family take: of none, IPv4, IPv6, Unix."""
_LAST_FAMILY: Final = len(_ADDRESS_SIZES) - 1
_LAST_TRANSPORT: Final = 2
_TLV: Final = struct.Struct("!BH")
_V2_LONGEST: Final = 4096
"""Bytes, as nginx takes: a header has room for a client's certificate, and a peer takes no more memory than that."""

_ADVICE: Final = (
    "let it send one (send-proxy in HAProxy, proxy_protocol on in nginx), or take it out of accept_proxy"
)

_Address = IPv4Address | IPv6Address


class ProxyProtocolError(Exception):
    """A fronting proxy sent no header, or one that is malformed; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a header said."""

    version: Version
    source: TcpEndpoint | None = None
    """The address of the client; None when it has none, or the proxy does not tell: the proxy's own then stands."""
    destination: TcpEndpoint | None = None
    """The address to which the client connected; None as ``source``."""
    tlvs: Mapping[int, bytes] = field(default_factory=dict)
    """What else version 2 said, by type; of one that comes twice, the last."""


def addresses(client: SocketStream) -> tuple[TcpEndpoint | None, TcpEndpoint | None]:
    """Return the source and destination of an accepted TCP connection; nothing of any other, or one already gone."""
    if not isinstance(client.client_id, str):
        return None, None
    sock = client.plain or client.socket
    try:
        source, destination = sock.getpeername(), sock.getsockname()
    except OSError:  # ENOTCONN: reset since it was accepted
        return None, None
    return _endpoint(source[0], source[1]), _endpoint(destination[0], destination[1])


def header(
    version: Version,
    source: TcpEndpoint | None,
    destination: TcpEndpoint | None,
    *,
    vm: uuid.UUID | None,
    forward: str,
) -> bytes:
    """Return what to send to an upstream before any other byte.

    Without a source or a destination, which are IP addresses, version 1 says UNKNOWN. Version 2 then says LOCAL: its
    address family "unspecified" would be truer, but HAProxy takes that for a malformed header.

    Args:
        version: which form the upstream expects.
        source: the client's address, when it came by TCP.
        destination: the address that it connected to.
        vm: the VM at either end of the connection, if its id is known; told by version 2 only.
        forward: the forward's name; told by version 2 only.
    """
    command, family, rest = _LOCAL, 0, b""
    if source is not None and destination is not None:
        from_ip, to_ip = _same_family(_ip(source.host), _ip(destination.host))
        if version == "v1":
            ports = f"{source.port} {destination.port}"
            return f"PROXY TCP{from_ip.version} {from_ip} {to_ip} {ports}\r\n".encode("ascii")
        command, family = _PROXY, 0x11 if from_ip.version == 4 else 0x21
        rest = _TCP[family].pack(from_ip.packed, to_ip.packed, source.port, destination.port)
    if version == "v1":
        return b"PROXY UNKNOWN\r\n"
    if vm is not None:
        rest += _tlv(VM_TLV, str(vm).encode("ascii"))
    rest += _tlv(FORWARD_TLV, forward.encode())
    return _FIXED.pack(_V2, _VERSION_2 | command, family, len(rest)) + rest


async def receive(stream: SocketStream) -> Received:
    """Read the header that ``stream`` begins with, of either version, and leave what follows unread.

    The stream's handshake is over. It is the caller's to end the wait, and to close the stream.

    Raises:
        ProxyProtocolError: there is no header, it is malformed or too long, or the connection ended before its end.
    """
    # Reads are for exact numbers of bytes. MSG_PEEK would spare some of them, but Hyper-V sockets do not know it.
    text = bytearray()
    await _extend(stream, text, _V1_SHORTEST)  # which both versions have
    if text.startswith(_V1):
        while b"\n" not in text:
            if len(text) == _V1_LONGEST:
                raise _malformed(f"its line is longer than {_V1_LONGEST} bytes")
            await _extend(stream, text, min(len(text) + (1 if text.endswith(b"\r") else 2), _V1_LONGEST))
        return _parse_line(bytes(text))
    await _extend(stream, text, _FIXED.size)
    _, version_and_command, family, size = _FIXED.unpack(text)
    if version_and_command & 0xF0 != _VERSION_2:
        raise _malformed(f"its version is {version_and_command >> 4}, and must be 2")
    if len(text) + size > _V2_LONGEST:
        raise _malformed(f"it has {len(text) + size} bytes, and must not have more than {_V2_LONGEST}")
    await _extend(stream, text, len(text) + size)
    return _parse_block(version_and_command & 0x0F, family, bytes(text[_FIXED.size :]))


async def _extend(stream: SocketStream, text: bytearray, size: int) -> None:
    """Read until ``text`` has ``size`` bytes, and begins as a header does all the while."""
    while len(text) < size:
        more = bytearray(size - len(text))
        try:
            received = await stream.receive_into(memoryview(more))
        except trio.BrokenResourceError as error:
            raise ProxyProtocolError(
                f"the fronting proxy broke the connection within its PROXY header: {error}"
            ) from error
        if not received:
            where = "within" if text else "before"
            raise ProxyProtocolError(
                f"the fronting proxy ended the connection {where} its PROXY header; {_ADVICE}"
            )
        text += more[:received]
        if not any(text.startswith(start[: len(text)]) for start in (_V1, _V2)):
            sent = quote(text.decode("latin-1"))
            raise ProxyProtocolError(
                f"the fronting proxy sent {sent} where its PROXY header should be; {_ADVICE}"
            )


def _parse_line(line: bytes) -> Received:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _malformed(f"{quote(line.decode('latin-1'))} is not a line of version 1")
    if match[1] is None:
        return Received("v1")
    kind = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        ips = [kind(text.decode("ascii")) for text in match.group(2, 3)]
    except ValueError as error:
        raise _malformed(str(error)) from None
    ports = [int(text) for text in match.group(4, 5)]
    if max(ports) > _MAX_PORT:
        raise _malformed(f"{max(ports)} is not a port")
    return Received("v1", _endpoint(ips[0], ports[0]), _endpoint(ips[1], ports[1]))


def _parse_block(command: int, family: int, block: bytes) -> Received:
    if command not in (_LOCAL, _PROXY):
        raise _malformed(f"its command is {command}, and must be 0 or 1")
    if command == _PROXY and (family >> 4 > _LAST_FAMILY or family & 0x0F > _LAST_TRANSPORT):
        raise _malformed(f"there is no family and transport {family:#04x}")
    if command == _LOCAL or not family >> 4:
        # Addresses that stand here are to be ignored, so it must be a header like ours, of TLVs alone, to have any.
        return Received("v2", tlvs=(_parse_tlvs(block) if not family else None) or {})
    size = _ADDRESS_SIZES[family >> 4]
    if len(block) < size:
        raise _malformed(f"its addresses have {len(block)} of {size} bytes")
    tlvs = _parse_tlvs(block[size:])
    if tlvs is None:
        raise _malformed("one of its TLVs reaches beyond its end")
    if family not in _TCP:
        return Received("v2", tlvs=tlvs)
    source, destination, source_port, destination_port = _TCP[family].unpack_from(block)
    return Received(
        "v2",
        _endpoint(ip_address(source), source_port),
        _endpoint(ip_address(destination), destination_port),
        tlvs,
    )


def _parse_tlvs(data: bytes) -> dict[int, bytes] | None:
    """Return the TLVs by type, or None when they do not end where ``data`` does."""
    tlvs = {}
    while data:
        if len(data) < _TLV.size:
            return None
        kind, size = _TLV.unpack_from(data)
        value, data = data[_TLV.size : _TLV.size + size], data[_TLV.size + size :]
        if len(value) < size:
            return None
        tlvs[kind] = value
    return tlvs


def _tlv(kind: int, value: bytes) -> bytes:
    return _TLV.pack(kind, len(value)) + value


def _endpoint(ip: str | _Address, port: int) -> TcpEndpoint:
    return TcpEndpoint(str(_ip(str(ip))), port)


def _ip(host: str) -> _Address:
    """The address without its scope, and as IPv4 where it stands for one, as lists of networks have it."""
    ip = ip_address(host.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _same_family(source: _Address, destination: _Address) -> tuple[_Address, _Address]:
    """Both as IPv6 when one is: a header has one family."""
    if source.version == destination.version:
        return source, destination
    return _as_ipv6(source), _as_ipv6(destination)


def _as_ipv6(ip: _Address) -> IPv6Address:
    return ip if isinstance(ip, IPv6Address) else IPv6Address(f"::ffff:{ip}")


def _malformed(what: str) -> ProxyProtocolError:
    return ProxyProtocolError(f"the fronting proxy sent a malformed PROXY header: {what}")
