"""The vsock and Hyper-V guest transports over real AF_VSOCK, and both splices over their streams."""

import hashlib
import math
import os
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import SystemdEndpoint, parse_endpoint
from hvbridge.splice import Limits, Reason, Splicer, Transfer, open_splicer
from hvbridge.splice.portable import PortableSplicer
from hvbridge.splice.timeouts import TimeoutQueue
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.listener import Listener, SocketListener
from hvbridge.transport.network import Network, native_network
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream
from hvbridge.transport.vsock import VsockStream

if sys.platform != "linux":
    pytest.skip("vsock is there on Linux only", allow_module_level=True)
assert sys.platform == "linux"  # so that mypy leaves the rest alone elsewhere

pytestmark = pytest.mark.vm("loopback")

_CONNECT_TIMEOUT = 6
"""SO_VM_SOCKETS_CONNECT_TIMEOUT."""
_UNPRIVILEGED = 65534


@pytest.fixture
def network() -> Network:
    """Return the network that hvbridge has on this kernel, which looks like a Hyper-V guest's."""
    return native_network()


async def _listen(network: Network, text: str, options: ListenOptions = ListenOptions()) -> Listener:  # noqa: B008
    (listener,) = await network.listen(parse_endpoint(text), options)
    return listener


async def _dial(network: Network, text: str, timeout: float = 10.0) -> SocketStream:
    return await network.dial(parse_endpoint(text), DialOptions(timeout=timeout))


async def _connected(network: Network, timeout: float = 10.0) -> tuple[SocketStream, SocketStream]:
    async with await _listen(network, "vsock://any:5000") as listener:
        dialled = await _dial(network, "vsock://local:5000", timeout)
        return dialled, await listener.accept()


async def _keep_sending(stream: SocketStream, data: bytes) -> None:
    while True:
        await stream.send_all(data)


async def test_stream_keeps_the_promises_of_a_stream(network: Network) -> None:
    """A vsock stream behaves as trio wants of a half-closeable stream: its ends, closing, being busy."""
    with trio.fail_after(30):
        await trio.testing.check_half_closeable_stream(partial(_connected, network), None)


async def test_a_listener_of_systemd_makes_vsock_streams(network: Network) -> None:
    """On a vsock socket that systemd passes, connections are those of a vsock listener, and know their peer."""
    from hvbridge.transport.socket_activation import SystemdTransport  # which only Linux can load

    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as bound, trio.fail_after(30):
        bound.bind((socket.VMADDR_CID_ANY, 5001))
        bound.listen()
        inherited = socket.socket(fileno=os.dup(bound.fileno()))  # whose family is found out, as systemd's is
        transport = SystemdTransport(lambda: {"web": [inherited]})
        (listener,) = await transport.listen(SystemdEndpoint("web"), ListenOptions())
        assert listener.where == "vsock://any:5001"
        client = await _dial(network, "vsock://local:5001")
        stream = await listener.accept()
        assert isinstance(stream, VsockStream)
        assert stream.peer.startswith("vsock://local:")
        await client.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await client.aclose()
        assert await stream.receive_some() == b""
        await stream.aclose()
        await listener.aclose()
        inherited.close()


async def test_blocked_sender_hears_of_the_close(network: Network) -> None:
    """A send that waits for room fails when the peer closes."""
    left, right = await _connected(network)

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await _keep_sending(left, bytes(65536))

    with trio.fail_after(30):
        async with left, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.2)
            await right.aclose()


@pytest.mark.parametrize(
    ("listen", "connect"),
    [
        ("hyperv://any/5001", "hyperv://loopback/5001"),
        ("hyperv://loopback/5001", "hyperv://loopback/5001"),
        (
            "hyperv://parent/5001",
            "hyperv://parent/5001",
        ),  # the kernel takes CID 2 for itself where it has no host
        ("hyperv://any/00001389-facb-11e6-bd58-64006a7986d3", "vsock://local:5001"),
        ("vsock://any:2147483648", "vsock://local:2147483648"),
    ],
)
async def test_endpoints_meet(network: Network, listen: str, connect: str) -> None:
    """The Hyper-V endpoints of a guest are vsock's, and every port in the range is."""
    assert network.fault(parse_endpoint(listen), "listen") is None
    assert network.fault(parse_endpoint(connect), "connect") is None
    async with (
        await _listen(network, listen) as listener,
        await _dial(network, connect) as client,
        await listener.accept() as server,
    ):
        await client.send_all(b"hello")
        assert await server.receive_some() == b"hello"


@pytest.mark.parametrize(
    ("text", "cause", "advice"),
    [
        ("vsock://local:9", Cause.NOBODY_LISTENING, "start a listener on that port"),
        ("hyperv://loopback/9", Cause.NOBODY_LISTENING, "start hvbridge, or another listener"),
        ("vsock://77:22", Cause.UNAVAILABLE, "modprobe"),
    ],
)
async def test_dial_fails(network: Network, text: str, cause: Cause, advice: str) -> None:
    """A failed dial says where to, why, and what to do."""
    with pytest.raises(DialError) as caught:
        await _dial(network, text)
    assert caught.value.cause is cause
    assert str(caught.value).startswith(f"cannot dial {text}: {cause} (errno ")
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"), [("vsock://any:5002", Cause.IN_USE), ("vsock://77:5003", Cause.ADDRESS_NOT_LOCAL)]
)
async def test_listen_fails(network: Network, text: str, cause: Cause) -> None:
    """A port that is taken, and a CID of another machine, are told apart."""
    async with await _listen(network, "vsock://any:5002"):
        with pytest.raises(ListenError) as caught:
            await _listen(network, text)
    assert caught.value.cause is cause


async def test_low_ports_need_a_right(network: Network) -> None:
    """Listening on a port up to 1023 without CAP_NET_BIND_SERVICE says what is missing."""
    os.seteuid(_UNPRIVILEGED)
    try:
        with pytest.raises(ListenError) as caught:
            await _listen(network, "vsock://any:1023")
    finally:
        os.seteuid(0)
    assert caught.value.cause is Cause.NOT_PERMITTED
    assert "CAP_NET_BIND_SERVICE" in str(caught.value)


@pytest.mark.parametrize(("timeout", "seconds"), [(7.25, 7.25), (math.inf, 300.0)])
async def test_kernel_is_told_the_dial_timeout(network: Network, timeout: float, seconds: float) -> None:
    """The kernel gets the dial's own time, instead of its 2 seconds."""
    client, server = await _connected(network, timeout)
    # CPython hands out structures of sockets of other families only.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=os.dup(client.socket.fileno())) as alias:
        raw = alias.getsockopt(socket.AF_VSOCK, _CONNECT_TIMEOUT, 16)
    client.close()
    server.close()
    whole, micro = struct.unpack("@ll", raw)
    assert whole + micro / 1e6 == pytest.approx(seconds, abs=0.02)  # the kernel counts in ticks


@pytest.mark.vm("pair")
@pytest.mark.parametrize(("timeout", "least", "most"), [(0.5, 0.4, 1.9), (3.0, 2.9, 10.0)])
async def test_silence_ends_with_the_dial_timeout(
    network: Network, timeout: float, least: float, most: float
) -> None:
    """A CID that does not answer costs the dial's own time: neither the kernel's 2 seconds, nor for ever."""
    began = time.monotonic()
    with pytest.raises(DialError) as caught:
        await _dial(network, "vsock://99:22", timeout)
    assert least < time.monotonic() - began < most
    assert caught.value.cause is Cause.NOBODY_LISTENING


async def test_buffer_is_the_listeners(network: Network) -> None:
    """`buffer` is what a listener's SO_SNDBUF and SO_RCVBUF then are: hv_sock makes its rings as large as they say."""
    async with await _listen(network, "vsock://any:5005", ListenOptions(buffer=65536)) as listener:
        assert isinstance(listener, SocketListener)
        sizes = [
            listener.socket.getsockopt(socket.SOL_SOCKET, option)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        ]
    assert sizes == [65536, 65536]


# Both splices.

_OpenSplicer = Callable[[], AbstractAsyncContextManager[Splicer]]


@asynccontextmanager
async def _portable() -> AsyncIterator[Splicer]:
    timeouts = TimeoutQueue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        yield PortableSplicer(timeouts)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _spliced(
    open_one: _OpenSplicer, network: Network
) -> AsyncIterator[tuple[SocketStream, SocketStream, Transfer]]:
    """The outer ends of two vsock connections whose inner ends are spliced."""
    client, inner_client = await _connected(network)
    inner_upstream, upstream = await _connected(network)
    transfer = Transfer()
    with trio.fail_after(30):
        async with open_one() as splicer, trio.open_nursery() as nursery:
            nursery.start_soon(splicer.splice, inner_client, inner_upstream, Limits(), transfer)
            yield client, upstream, transfer
    client.abort()
    upstream.abort()


_SPLICES = pytest.mark.parametrize("open_one", [open_splicer, _portable], ids=["linux", "portable"])


@_SPLICES
async def test_splice_moves_bulk_both_ways(network: Network, open_one: _OpenSplicer) -> None:
    """Megabytes go both ways at once, unchanged, to a clean end."""
    data = os.urandom(4_000_000)
    digests = {}

    async def send(stream: SocketStream) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async def receive(stream: SocketStream) -> None:
        digest = hashlib.sha256()
        async for chunk in stream:
            digest.update(chunk)
        digests[stream] = digest.digest()

    async with _spliced(open_one, network) as (client, upstream, transfer), trio.open_nursery() as nursery:
        for stream in (client, upstream):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream)
    assert set(digests.values()) == {hashlib.sha256(data).digest()}
    assert len(digests) == 2
    assert transfer == Transfer(len(data), len(data), Reason.EOF, "")


@_SPLICES
async def test_splice_passes_half_close(network: Network, open_one: _OpenSplicer) -> None:
    """The end of one direction leaves the other open, whichever side ends first."""
    for first in (0, 1):
        async with _spliced(open_one, network) as (client, upstream, transfer):
            asker, answerer = (client, upstream)[first], (client, upstream)[1 - first]
            await asker.send_all(b"question")
            await asker.send_eof()
            assert b"".join([chunk async for chunk in answerer]) == b"question"
            await answerer.send_all(b"answer")
            await answerer.send_eof()
            assert b"".join([chunk async for chunk in asker]) == b"answer"
        assert transfer.reason is Reason.EOF


@_SPLICES
async def test_splice_notices_a_peer_that_left(network: Network, open_one: _OpenSplicer) -> None:
    """A peer that closed both ways ends the splice as soon as something is written to it."""
    async with _spliced(open_one, network) as (client, upstream, transfer):
        client.abort()
        assert await upstream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await _keep_sending(upstream, b"y")
    assert transfer.reason is Reason.RESET_BY_CLIENT


@_SPLICES
async def test_splice_delivers_what_preceded_the_close(network: Network, open_one: _OpenSplicer) -> None:
    """Data sent right before a close, both ways at once, is not lost to it."""
    data = os.urandom(200_000)
    async with _spliced(open_one, network) as (client, upstream, _):
        await client.send_all(data)
        await client.aclose()
        assert b"".join([chunk async for chunk in upstream]) == data
        await upstream.aclose()
