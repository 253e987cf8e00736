"""PROXY protocol: what is sent to an upstream, and what is read, or refused, of a fronting proxy."""

import socket
import struct
import sys
import uuid

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.proxy.proxy_protocol import (
    FORWARD_TLV,
    VM_TLV,
    ProxyProtocolError,
    Received,
    Version,
    addresses,
    header,
    receive,
)
from hvbridge.transport.stream import SocketStream

VM = uuid.UUID("6a0c8e2e-0000-4000-8000-0000000000e2")
A4, B4 = TcpEndpoint("192.0.2.1", 56324), TcpEndpoint("198.51.100.7", 443)
A6, B6 = TcpEndpoint("2001:db8::1", 1), TcpEndpoint("2001:db8::2", 65535)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
IPV4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 56324, 443)
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "0001" + "ffff")
UNIX = bytes(216)
REST = b"SSH-2.0-OpenSSH_9.9\r\n"
"""What the client itself sends, right behind the header."""


def v2(command: int, family: int, block: bytes = b"", *, size: int | None = None) -> bytes:
    """A header of version 2 with its first bytes as they are given."""
    return (
        SIGNATURE + bytes([command, family]) + struct.pack("!H", len(block) if size is None else size) + block
    )


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


class Feed(SocketStream):
    """A stream that gives at most ``at_once`` bytes a read, and then ends, or breaks."""

    def __init__(self, data: bytes, at_once: int = 65536, *, breaks: bool = False) -> None:
        self.rest = data  # and there is no socket
        self._connect_nowait = at_once
        self._breaks = breaks

    async def receive_into(self, buffer: memoryview) -> int:
        if not self.rest and self._breaks:
            raise trio.BrokenResourceError("socket connection broken: [Errno 104] Connection reset by peer")
        size = min(len(buffer), self._connect_nowait, len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def refusal(data: bytes) -> str:
    """What is said of ``data``, which must be refused."""
    with pytest.raises(ProxyProtocolError) as refused:
        trio.run(receive, Feed(data))
    return str(refused.value)


HIGHEST = TcpEndpoint("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)

GOOD = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", Received("v1", A4, B4)),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 1 65535\r\n", Received("v1", A6, B6)),
    "v1 shortest TCP": (
        b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
        Received("v1", TcpEndpoint("0.0.0.0", 0), TcpEndpoint("0.0.0.0", 0)),
    ),
    "v1 longest TCP6": (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        Received("v1", HIGHEST, HIGHEST),
    ),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 56324 65535\r\n", Received("v1", A4, B6)),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", Received("v1")),
    "v1 UNKNOWN and more": (b"PROXY UNKNOWN \xff whatever\r stands here\r\n", Received("v1")),
    "v1 longest UNKNOWN": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", Received("v1")),
    "v2 TCP4": (v2(0x21, 0x11, IPV4), Received("v2", A4, B4)),
    "v2 TCP6": (v2(0x21, 0x21, IPV6), Received("v2", A6, B6)),
    "v2 TLVs": (
        v2(0x21, 0x11, IPV4 + tlv(0x04, b"") + tlv(0x05, b"one") + tlv(0x05, b"two")),
        Received("v2", A4, B4, {0x04: b"", 0x05: b"two"}),
    ),
    "v2 longest": (
        v2(0x21, 0x11, IPV4 + tlv(0x04, bytes(4065))),
        Received("v2", A4, B4, {0x04: bytes(4065)}),
    ),
    "v2 UDP": (v2(0x21, 0x12, IPV4 + tlv(0x05, b"x")), Received("v2", tlvs={0x05: b"x"})),
    "v2 Unix": (v2(0x21, 0x31, UNIX + tlv(0x05, b"x")), Received("v2", tlvs={0x05: b"x"})),
    "v2 unspecified": (v2(0x21, 0x00), Received("v2")),
    "v2 unspecified, TLVs": (v2(0x21, 0x00, tlv(0x05, b"x")), Received("v2", tlvs={0x05: b"x"})),
    "v2 unspecified, something": (v2(0x21, 0x00, b"\x01\x02"), Received("v2")),
    "v2 LOCAL": (v2(0x20, 0x00), Received("v2")),
    "v2 LOCAL, TLVs": (v2(0x20, 0x00, tlv(0xE7, b"web")), Received("v2", tlvs={0xE7: b"web"})),
    "v2 LOCAL, addresses": (v2(0x20, 0x11, IPV4), Received("v2")),
    "v2 LOCAL, addresses like TLVs": (v2(0x20, 0x11, tlv(0x05, bytes(9))), Received("v2")),
    "v2 LOCAL, any family": (v2(0x20, 0xFF, b"something"), Received("v2")),
}

MALFORMED = {
    "another protocol": (REST, 'sent "SSH-2.0-OpenSSH" where its PROXY header should be; let it send one'),
    "another protocol, shorter": (b"hello\n", r'sent "hello\n" where'),
    "almost v1": (b"PROXX TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "where its PROXY header should be"),
    "almost v2": (SIGNATURE[:-1] + b"\r" + bytes(20), "where its PROXY header should be"),
    "control characters": (b"\x1b[31mred\x1b[0m and more\n", r'sent "\x1b[31mred'),
    "v1 without CR": (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\nSSH", "is not a line of version 1"),
    "v1 too long": (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", "its line is longer than 107 bytes"),
    "v1 endless": (b"PROXY TCP4 " + b"1" * 100_000, "its line is longer than 107 bytes"),
    "v1 lower case": (b"PROXY tcp4 192.0.2.1 198.51.100.7 56324 443\r\n", "is not a line of version 1"),
    "v1 UDP": (b"PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n", "is not a line of version 1"),
    "v1 UNKNOWNS": (b"PROXY UNKNOWNS\r\n", "is not a line of version 1"),
    "v1 two spaces": (b"PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n", "is not a line of version 1"),
    "v1 one address": (b"PROXY TCP4 192.0.2.1 56324 443\r\n", "is not a line of version 1"),
    "v1 more": (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n", "is not a line of version 1"),
    "v1 IPv6 in TCP4": (b"PROXY TCP4 ::1 ::1 56324 443\r\n", "'::1'"),
    "v1 IPv4 in TCP6": (b"PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n", "'192.0.2.1'"),
    "v1 leading zero": (b"PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n", "'192.0.2.01'"),
    "v1 byte too great": (b"PROXY TCP4 192.0.2.256 198.51.100.7 56324 443\r\n", "256"),
    "v1 scope": (b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n", "is not a line of version 1"),
    "v1 name": (b"PROXY TCP4 localhost localhost 56324 443\r\n", "is not a line of version 1"),
    "v1 port too great": (b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n", "65536 is not a port"),
    "v1 port with zero": (b"PROXY TCP4 192.0.2.1 198.51.100.7 056 443\r\n", "is not a line of version 1"),
    "v1 signed port": (b"PROXY TCP4 192.0.2.1 198.51.100.7 +56 443\r\n", "is not a line of version 1"),
    "v1 digits of Python": (b"PROXY TCP4 192.0.2.1 198.51.100.7 5_6 443\r\n", "is not a line of version 1"),
    "v2 version 1": (v2(0x11, 0x11, IPV4), "its version is 1, and must be 2"),
    "v2 version 3": (v2(0x31, 0x11, IPV4), "its version is 3, and must be 2"),
    "v2 command": (v2(0x22, 0x11, IPV4), "its command is 2, and must be 0 or 1"),
    "v2 family": (v2(0x21, 0x41, IPV4), "there is no family and transport 0x41"),
    "v2 transport": (v2(0x21, 0x13, IPV4), "there is no family and transport 0x13"),
    "v2 short IPv4": (v2(0x21, 0x11, IPV4[:-1]), "its addresses have 11 of 12 bytes"),
    "v2 short IPv6": (v2(0x21, 0x21, IPV4), "its addresses have 12 of 36 bytes"),
    "v2 short Unix": (v2(0x21, 0x31, IPV6), "its addresses have 36 of 216 bytes"),
    "v2 half a TLV head": (v2(0x21, 0x11, IPV4 + b"\x05\x00"), "reaches beyond its end"),
    "v2 TLV too long": (v2(0x21, 0x11, IPV4 + b"\x05\x00\x04abc"), "reaches beyond its end"),
    "v2 oversize": (v2(0x21, 0x11, IPV4, size=4081), "it has 4097 bytes, and must not have more than 4096"),
    "v2 greatest": (v2(0x21, 0x11, IPV4, size=65535), "it has 65551 bytes"),
}

good = pytest.mark.parametrize(("data", "said"), GOOD.values(), ids=GOOD)


# Reading.


@pytest.mark.parametrize("at_once", [1, 2, 7, 65536])
@good
async def test_a_header_is_read_to_its_last_byte_and_no_further(
    data: bytes, said: Received, at_once: int
) -> None:
    """However it arrives, the header says what it says, and what the client sent is still there."""
    stream = Feed(data + REST, at_once)
    assert await receive(stream) == said
    assert stream.rest == REST


@good
async def test_a_header_that_ends_early_is_refused(data: bytes, said: Received) -> None:
    """A connection that ends, or breaks, after any byte but the last is one without a header."""
    for end in range(len(data)):
        for breaks in (False, True):
            with pytest.raises(ProxyProtocolError) as refused:
                await receive(Feed(data[:end], breaks=breaks))
            assert "the connection" in str(refused.value)


@pytest.mark.parametrize(("data", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_header_is_refused(data: bytes, why: str) -> None:
    """It is refused with a sentence that says what is wrong with it, on one line."""
    said = refusal(data)
    assert said.startswith("the fronting proxy ")
    assert why in said
    assert said.isprintable()


def test_who_leaves_without_a_header_is_told_from_who_leaves_within_it() -> None:
    """A health check that only connects is the common case of the first."""
    assert "ended the connection before its PROXY header; let it send one" in refusal(b"")
    assert "ended the connection within its PROXY header" in refusal(b"PROXY TCP4 ")


@pytest.mark.parametrize(
    "sent",
    [b"hello\n", b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\nSSH", v2(0x21, 0x11, IPV4, size=65535)],
)
async def test_what_cannot_become_a_header_is_refused_at_once(sent: bytes) -> None:
    """Nobody waits for more of what is wrong already."""
    near, far = socket.socketpair()
    far.sendall(sent)
    near.setblocking(False)
    with far, trio.fail_after(5), pytest.raises(ProxyProtocolError):
        async with SocketStream(near) as stream:
            await receive(stream)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=120).map(lambda data: b"PROXY " + data),
        st.text("0123456789.: \r\nTCPUNKOW46", max_size=110).map(lambda text: b"PROXY " + text.encode()),
        st.binary(max_size=300).map(lambda data: SIGNATURE + data),
        st.tuples(st.integers(0x1F, 0x23), st.integers(0, 0x42), st.binary(max_size=300)).map(
            lambda parts: v2(parts[0], parts[1], parts[2])
        ),
        # Good ones with a byte changed.
        st.tuples(
            st.sampled_from([data for data, _ in GOOD.values()]), st.integers(0, 4095), st.integers(0, 255)
        ).map(lambda parts: parts[0][: parts[1]] + bytes([parts[2]]) + parts[0][parts[1] + 1 :]),
    ),
    st.integers(1, 200),
)
def test_nothing_but_a_header_or_a_refusal_comes_out(data: bytes, at_once: int) -> None:
    """Whatever is sent and however it arrives; and what was read is just what is said to be a header."""
    stream = Feed(data + REST, at_once)
    try:
        said = trio.run(receive, stream)
    except ProxyProtocolError:
        return
    text = (data + REST)[: len(data + REST) - len(stream.rest)]
    if said.version == "v1":
        assert text.startswith(b"PROXY ")
        assert text.index(b"\n") == len(text) - 1 <= 106
    else:
        assert text.startswith(SIGNATURE)
        assert len(text) == 16 + int.from_bytes(text[14:16], "big") <= 4096


# Sending.


@pytest.mark.parametrize(
    ("version", "source", "destination", "sent"),
    [
        ("v1", A4, B4, b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"),
        ("v1", A6, B6, b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"),
        ("v1", None, None, b"PROXY UNKNOWN\r\n"),
        ("v1", A4, None, b"PROXY UNKNOWN\r\n"),
        ("v1", None, B4, b"PROXY UNKNOWN\r\n"),
        ("v2", A4, B4, v2(0x21, 0x11, IPV4 + tlv(0xE7, b"web"))),
        ("v2", A6, B6, v2(0x21, 0x21, IPV6 + tlv(0xE7, b"web"))),
        ("v2", None, None, v2(0x20, 0x00, tlv(0xE7, b"web"))),
    ],
)
def test_an_upstream_is_sent(
    version: Version, source: TcpEndpoint | None, destination: TcpEndpoint | None, sent: bytes
) -> None:
    """The header of the client's addresses; without them UNKNOWN, or LOCAL, which all receivers take."""
    assert header(version, source, destination, vm=None, forward="web") == sent


def test_version_2_tells_vm_and_forward() -> None:
    """Both are text, in TLVs of the range for applications; the types are what users have in their configs."""
    sent = header("v2", A4, B4, vm=VM, forward="web")
    assert sent == v2(0x21, 0x11, IPV4 + tlv(0xE6, str(VM).encode()) + tlv(0xE7, b"web"))
    assert header("v1", A4, B4, vm=VM, forward="web") == header("v1", A4, B4, vm=None, forward="")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6), (A4, B6), (A6, B4), (None, None)])
async def test_what_is_sent_is_read_back(
    version: Version, source: TcpEndpoint | None, destination: TcpEndpoint | None
) -> None:
    """A bridge behind a bridge gets the same addresses, also of two families, within the smallest segment of TCP."""
    sent = header(version, source, destination, vm=VM, forward="w" * 64)
    tlvs = {VM_TLV: str(VM).encode(), FORWARD_TLV: b"w" * 64} if version == "v2" else {}
    assert await receive(Feed(sent + REST)) == Received(version, source, destination, tlvs)
    assert len(sent) <= 536


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_scope_is_left_out(version: Version) -> None:
    """An address of the link has a scope that means something on this machine alone."""
    here = TcpEndpoint("fe80::1%eth0", 22)
    said = await receive(Feed(header(version, here, here, vm=None, forward="web")))
    assert said.source == said.destination == TcpEndpoint("fe80::1", 22)


# Real sockets.


def tcp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    with socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as listener:
        near = socket.create_connection(listener.getsockname()[:2])
        return near, listener.accept()[0]


def vsock_pair() -> tuple[socket.socket, socket.socket]:
    if sys.platform != "linux":
        pytest.skip("AF_VSOCK is Linux's")
    try:
        with socket.socket(socket.AF_VSOCK) as listener:
            listener.bind((1, socket.VMADDR_PORT_ANY))
            listener.listen()
            near = socket.socket(socket.AF_VSOCK)
            near.connect(listener.getsockname())
            return near, listener.accept()[0]
    except OSError as error:
        pytest.skip(f"no vsock_loopback here: {error}")


@pytest.fixture(params=[tcp_pair, socket.socketpair, vsock_pair], ids=["tcp", "unix", "vsock"])
def pair(request: pytest.FixtureRequest) -> tuple[socket.socket, socket.socket]:
    """Give the two ends of a connection."""
    return request.param()  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "trio"])
async def test_a_header_is_read_from_a_socket(
    pair: tuple[socket.socket, socket.socket], is_plain: bool
) -> None:
    """It may come late, and in pieces; what the client sends behind it stays in the socket."""
    far, near = pair
    near.setblocking(False)
    stream = SocketStream(near if is_plain else trio.socket.from_stdlib_socket(near))
    sent = header("v2", A4, B4, vm=VM, forward="web")
    received = []

    async def read() -> None:
        received.append(await receive(stream))

    with far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for piece in (sent[:3], sent[3:20], sent[20:] + REST):
                await trio.testing.wait_all_tasks_blocked()
                far.sendall(piece)
        assert received[0].source == A4
        assert await stream.receive_some() == REST
        await stream.aclose()


async def test_a_reset_is_a_refusal() -> None:
    """A proxy that resets the connection within its header is no fault of this program."""
    far, near = tcp_pair()
    near.setblocking(False)
    far.sendall(b"PROXY TCP4 ")
    far.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    )
    far.close()
    async with SocketStream(near) as stream:
        with trio.fail_after(10), pytest.raises(ProxyProtocolError, match="broke the connection"):
            await receive(stream)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_addresses_of_a_tcp_client_are_known(host: str) -> None:
    """Source and destination are those of the client's connection to the listener."""
    try:
        far, near = tcp_pair(host)
    except OSError:
        pytest.skip("no IPv6 here")
    with far:
        stream = SocketStream(near)
        stream.client_id = host
        assert addresses(stream) == (
            TcpEndpoint(host, far.getsockname()[1]),
            TcpEndpoint(host, near.getsockname()[1]),
        )
        near.close()
        assert addresses(stream) == (None, None)


async def test_a_client_of_another_kind_has_no_addresses() -> None:
    """Neither a VM has any, although its connection may be TCP below the emulator, nor a Unix client."""
    far, near = tcp_pair()
    with far, near:
        stream = SocketStream(near)
        for origin in (VM, 3, None):
            stream.client_id = origin
            assert addresses(stream) == (None, None)
