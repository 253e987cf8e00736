"""Nothing is left behind: neither descriptors nor memory, however connections end."""

import gc
import os
import random
import sys
import tracemalloc
from pathlib import Path

import pytest
import trio
import trio.testing

from hvbridge.splice import Limits, Reason, Transfer
from hvbridge.transport.stream import SocketStream

from .conftest import Bench, Connection, read_exactly, read_to_end, reset, tcp_pair, unix_pair

CONNECTIONS = int(os.environ.get("HVBRIDGE_LEAK_CONNECTIONS", "1500"))
"""How many connections come and go; a long run takes 100,000."""

BLOCK = bytes(1 << 20)


def descriptors() -> set[str]:
    """What this process has open."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def come_and_go(bench: Bench, number: int) -> None:
    """One connection, which ends in one of several ways, some with data on the way."""
    chance = random.Random(number)
    small = 65536 if chance.random() < 0.2 else None
    connection = bench.splice(tcp_pair(small), unix_pair() if hasattr(os, "fork") else tcp_pair())
    way = chance.choice(["clean", "reset", "cancel", "half-close", "cancel amid bulk", "reset amid bulk"])
    if "bulk" in way:
        with trio.move_on_after(0.002):
            await connection.client.send_all(BLOCK)
    else:
        await connection.client.send_all(b"hello")
        await read_exactly(connection.upstream, 5)
    match way.split()[0]:
        case "clean":
            await connection.client.send_eof()
            await connection.upstream.send_eof()
            await read_to_end(connection.client)
        case "reset":
            reset(connection.client)
            await connection.upstream.aclose()
        case "cancel":
            connection.scope.cancel()
        case "half-close":
            await connection.upstream.aclose()
            await read_to_end(connection.client)
            await connection.client.aclose()
    await connection.ended.wait()
    assert connection.is_closed()
    await connection.client.aclose()
    await connection.upstream.aclose()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are counted in /proc")
async def test_no_descriptor_and_no_memory_is_left_after_many_connections(bench: Bench) -> None:
    """After many connections, ended in every way, the process holds what it held before."""

    async def some(numbers: range) -> None:
        limit = trio.CapacityLimiter(50)

        async def one(number: int) -> None:
            async with limit:
                await come_and_go(bench, number)

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(one, number)
        bench.forget()
        gc.collect()

    bench.patience.deadline += CONNECTIONS / 100
    await some(range(200))  # fills pools and caches
    before = descriptors()
    tracemalloc.start()
    memory = tracemalloc.get_traced_memory()[0]
    for start in range(0, CONNECTIONS, 1000):
        await some(range(start, min(start + 1000, CONNECTIONS)))
    grown = tracemalloc.get_traced_memory()[0] - memory
    tracemalloc.stop()
    # Spare pipes may have been added, and dropped, within the pool's bounds.
    assert len(descriptors()) <= len(before) + 32
    assert grown < 6_000_000  # spare buffers of the portable pumps, 4 MiB at most


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are counted in /proc")
async def test_an_idle_connection_holds_two_descriptors(bench: Bench) -> None:
    """A pipe and a buffer are held only while data moves: after bulk, an idle connection has its sockets alone."""
    before = len(descriptors())
    connections: list[Connection] = []
    for _ in range(20):
        connection = bench.splice(upstream=unix_pair())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.client.send_all, BLOCK)
            assert len(await read_exactly(connection.upstream, len(BLOCK))) == len(BLOCK)
        connections.append(connection)
    await trio.testing.wait_all_tasks_blocked(0.01)
    spare = 2  # one pipe, kept in the pool
    assert (
        len(descriptors()) - before <= 4 * len(connections) + spare
    )  # two are the peers', which the test holds


async def test_an_ended_splice_leaves_no_garbage(bench: Bench) -> None:
    """A connection's memory goes at once, not when the collector runs: nothing refers to itself."""

    async def once() -> None:
        client, near = tcp_pair()
        upstream, far = tcp_pair()
        streams = SocketStream(near), SocketStream(far)
        transfer = Transfer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.splicer.splice, *streams, Limits(half_close_timeout=60), transfer)
            await client.send(b"x" * 100)
            await upstream.recv(100)
            client.close()
            upstream.close()
        assert transfer.reason in (Reason.EOF, Reason.RESET_BY_UPSTREAM)

    await once()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await once()
        kinds = [type(thing).__name__ for thing in gc.get_objects()]
        assert kinds.count("Pump") == 0
        assert kinds.count("SocketStream") == 0
    finally:
        gc.enable()
