"""`hvbridge run` on both sides of real vsock: one kernel that reaches itself, and a host with its guest."""

import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import trio

from tests.vm.inside import (
    BACK,
    CLOSED,
    CONNECT_CIDS,
    PATIENCE,
    SHARED,
    SSH,
    SSH_HYPERV,
    THERE,
    Bridge,
    guest_side,
    host_side,
)

if sys.platform != "linux":
    pytest.skip("vsock is there on Linux only", allow_module_level=True)
assert sys.platform == "linux"  # so that mypy leaves the rest alone elsewhere

_MB = 1000 * 1000
_KNOWS = ["-F", "none", "-i", f"{SHARED}/user_key", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
_KNOWS += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.vm(name)) for name in CONNECT_CIDS]
)
def lane(request: pytest.FixtureRequest) -> str:
    """Return the lane whose kernel this is."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def bridge(lane: str) -> Iterator[Bridge]:
    """Return the host's bridge, with the guest's side up."""
    with guest_side() if lane == "loopback" else nullcontext(), host_side(lane) as bridge:
        if lane == "pair":
            _wait_for_listener(CONNECT_CIDS[lane], 22)
        yield bridge


def _wait_for_listener(cid: int, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            try:
                probe.connect((cid, port))
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return


def _ssh(port: int, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["ssh", *_KNOWS, "-p", str(port), "root@127.0.0.1", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _scp(source: str, target: str) -> None:
    subprocess.run(["scp", *_KNOWS, "-P", str(SSH), source, target], check=True, timeout=2 * PATIENCE)


@asynccontextmanager
async def _ends() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a connection that goes from the host into the guest and back out to the host."""
    listener = (await trio.open_tcp_listeners(BACK, host="127.0.0.1"))[0]
    with trio.fail_after(PATIENCE):
        async with (
            listener,
            await trio.open_tcp_stream("127.0.0.1", THERE) as client,
            await listener.accept() as server,
        ):
            yield client, server


async def _read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def _keep_sending(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"y")
        await trio.sleep(0.02)


async def _reasons(bridge: Bridge) -> list[str]:
    """Why the connection ended on its way into the guest, and on its way back out."""
    return [(await bridge.closing_record(forward))["reason"] for forward in ("there", "back")]


@pytest.mark.parametrize("port", [SSH, SSH_HYPERV])
def test_ssh_runs_a_command(bridge: Bridge, lane: str, port: int) -> None:
    """A command runs in the guest, and its output, its error and its exit code come back."""
    done = _ssh(port, "hostname; echo sorry >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (
        "loopback\n" if lane == "loopback" else "guest\n",
        "sorry\n",
        7,
    )


def test_scp_copies_50_mb_each_way(bridge: Bridge, tmp_path: Path) -> None:
    """A file of 50 MB arrives in the guest whole, and comes back whole."""
    data = os.urandom(50 * _MB)
    here, there, back = tmp_path / "here", "/run/tmp/there", tmp_path / "back"
    here.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    _scp(str(here), f"root@127.0.0.1:{there}")
    assert _ssh(SSH, "sha256sum", there).stdout.split() == [digest, there]
    _scp(f"root@127.0.0.1:{there}", str(back))
    assert hashlib.sha256(back.read_bytes()).hexdigest() == digest


async def test_bulk_flows_both_ways_at_once(bridge: Bridge) -> None:
    """Neither direction waits for the other, and nothing is lost or changed."""
    data = os.urandom(4 * _MB), os.urandom(4 * _MB)
    received = [b"", b""]

    async def send(end: int) -> None:
        await ends[end].send_all(data[end])
        await ends[end].send_eof()

    async def receive(end: int) -> None:
        received[end] = await _read_all(ends[end])

    async with _ends() as ends, trio.open_nursery() as nursery:
        for end in (0, 1):
            nursery.start_soon(send, end)
            nursery.start_soon(receive, end)
    assert received == [data[1], data[0]]
    for forward in ("there", "back"):
        record = await bridge.closing_record(forward)
        counted = record["client_to_upstream"], record["upstream_to_client"]
        assert (record["reason"], *counted) == ("eof", 4 * _MB, 4 * _MB)


async def test_answer_follows_half_close(bridge: Bridge) -> None:
    """A server that answers only after the client's end of data is heard to its own end."""
    async with _ends() as (client, server):
        await client.send_all(b"question")
        await client.send_eof()
        assert await _read_all(server) == b"question"
        await server.send_all(b"answer")
        await server.send_eof()
        assert await _read_all(client) == b"answer"
    assert await _reasons(bridge) == ["eof", "eof"]


async def test_peer_is_named(bridge: Bridge, lane: str) -> None:
    """The closing record of a vsock listener says which CID connected."""
    async with _ends() as (client, server):
        await client.send_eof()
        await server.send_eof()
        assert await _read_all(client) == b""
    await bridge.closing_record("there")
    record = await bridge.closing_record("back")
    assert record["peer"].startswith({"loopback": "vsock://local:", "pair": "vsock://3:"}[lane])


async def test_reset_ends_the_whole_way(bridge: Bridge) -> None:
    """A client's reset is accounted for, and the connection does not live on behind it.

    vsock itself has no reset: its peer sees an end of data, and a failure only if it writes.
    """
    async with _ends() as (client, server):
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await _keep_sending(server)
    assert await _reasons(bridge) == ["reset by client", "reset by client"]


async def test_many_connections_at_once(bridge: Bridge) -> None:
    """Forty connections that are open together do not mix."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(await _read_all(stream))

    async def ask(number: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", THERE) as stream:
            await stream.send_all(b"%d" % number)
            connected.append(number)
            if len(connected) == 40:
                all_connected.set()
            await all_connected.wait()
            await stream.send_eof()
            assert await _read_all(stream) == b"%d" % number

    connected: list[int] = []
    all_connected = trio.Event()
    listeners = await trio.open_tcp_listeners(BACK, host="127.0.0.1")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as serving:
            serving.start_soon(trio.serve_listeners, serve, listeners)
            async with trio.open_nursery() as asking:
                for number in range(40):
                    asking.start_soon(ask, number)
            serving.cancel_scope.cancel()
    for _ in range(40):
        assert await _reasons(bridge) == ["eof", "eof"]


async def test_nobody_listens(bridge: Bridge, lane: str) -> None:
    """A vsock port without a listener is told in the record, with what to do, and the client is reset."""
    with trio.fail_after(PATIENCE), pytest.raises((trio.BrokenResourceError, OSError)):
        async with await trio.open_tcp_stream("127.0.0.1", CLOSED) as client:
            await client.receive_some()
    record = await bridge.closing_record("closed")
    cid = {"loopback": "local", "pair": "3"}[lane]
    assert record["reason"] == "dial failed"
    assert record["detail"] == (
        f"cannot dial vsock://{cid}:9: no answer from that service (errno 104: Connection reset by peer); "
        "start a listener on that port on the other side"
    )
