"""The stream of events, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from hvbridge.address.endpoint import parse_endpoint
from hvbridge.admin.stats import MAX_SUBSCRIBERS
from hvbridge.proxy.control import ConnectionState
from hvbridge.proxy.events import ConnectionClosed, UpstreamChanged
from hvbridge.transport.errors import Cause, DialError

from .support import Admin, Bridge, Exchange, connection, record

EVENTS = "/api/v1/events"


def exchange(method: str = "GET") -> Exchange:
    return Exchange(method, EVENTS, {"Host": "localhost"})


@asynccontextmanager
async def reading(admin: Admin) -> AsyncIterator[Exchange]:
    """A reader of events, who leaves at the end."""
    reader = exchange()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admin.app, reader.scope, reader.receive, reader.send)
        yield reader
        reader.leave.set()


def kinds(reader: Exchange) -> list[str]:
    return [kind for kind, _ in reader.events]


async def test_a_snapshot_every_second(autojump_clock: MockClock) -> None:
    """The first snapshot comes at once, and then one every second, each as things are then."""
    admin = Admin()
    async with reading(admin) as reader:
        await trio.sleep(0.1)
        assert reader.reply.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in reader.reply.headers
        admin.bridge.live = [connection(8, client_to_upstream=4000)]
        await trio.sleep(5)
    snapshots = [value for kind, value in reader.events if kind == "snapshot"]
    assert len(snapshots) in (5, 6)
    first, last = snapshots[0], snapshots[-1]
    assert [state["id"] for state in first["connections"]] == [7]
    assert [state["id"] for state in last["connections"]] == [8]
    assert last["forwards"][0]["client_to_upstream"] == 4000
    assert first.keys() == {
        "forwards",
        "connections",
        "uptime_seconds",
        "log_lines_dropped",
        "event_failures",
    }
    routes = await admin.ask("GET", "/api/v1/forwards")
    assert last["forwards"] == routes.json


async def test_a_snapshot_is_bounded(autojump_clock: MockClock) -> None:
    """A snapshot has the first 500 connections, and the totals of all."""
    admin = Admin(bridge=Bridge(live=[connection(number) for number in range(2000)]))
    async with reading(admin) as reader:
        await trio.sleep(0.1)
    ((_, snapshot),) = reader.events
    assert [state["id"] for state in snapshot["connections"]] == list(range(500))
    assert snapshot["forwards"][0]["client_to_upstream"] == 200_000


async def test_closings_and_upstreams_are_told_soon(autojump_clock: MockClock) -> None:
    """A closing, and a change of an upstream, is told in between, within half a second."""
    admin = Admin()
    async with reading(admin) as reader:
        await trio.sleep(0.1)
        admin.stats.on_event(ConnectionClosed(closed := record(detail="two\nlines")))
        error = DialError(parse_endpoint("tcp://192.0.2.1:22"), Cause.REFUSED)
        admin.stats.on_event(UpstreamChanged("ssh", error))
        admin.stats.on_event(UpstreamChanged("ssh", None))
        await trio.sleep(0.5)
        assert kinds(reader) == ["snapshot", "closed", "upstream", "upstream"]
    _, (_, closing), (_, down), (_, up) = reader.events
    assert (closing["id"], closing["detail"]) == (closed.id, "two\nlines")
    assert closing == (await admin.ask("GET", "/api/v1/closings")).json[0]
    assert down == {"forward": "ssh", "upstream": "down", "cause": "the connection was refused"}
    assert up == {"forward": "ssh", "upstream": "up", "cause": ""}


async def test_a_slow_reader_costs_no_memory(autojump_clock: MockClock) -> None:
    """What a reader does not take is not made, or not kept: it gets the newest when it reads again."""
    admin = Admin()
    async with reading(admin) as reader:
        await trio.sleep(0.1)
        reader.may_send = trio.Event()  # it stops reading
        for _ in range(100):
            await trio.sleep(1)
            for _ in range(100):
                admin.stats.on_event(ConnectionClosed(last := record()))
        reader.may_send.set()
        await trio.sleep(0.5)
        received = kinds(reader)
        assert received.count("snapshot") <= 3
        assert received.count("closed") < 1000
        assert [value["id"] for kind, value in reader.events if kind == "closed"][-1] == last.id


async def test_a_flood_of_closings_is_paced(autojump_clock: MockClock) -> None:
    """However many connections close, what a reader is sent of them has a bound."""
    admin = Admin()
    async with reading(admin) as reader:
        for _ in range(100):
            await trio.sleep(0.01)
            for _ in range(100):
                admin.stats.on_event(ConnectionClosed(record()))
    assert 100 < kinds(reader).count("closed") < 3000


async def test_the_stream_ends_with_the_endpoint(autojump_clock: MockClock) -> None:
    """When the endpoint stops, a stream ends at once, and cleanly."""
    admin = Admin()
    reader = exchange()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admin.app, reader.scope, reader.receive, reader.send)
        await trio.sleep(3.1)
        admin.stopping.set()
        with trio.fail_after(0.01):
            while reader.sent[-1].get("more_body", False):
                await trio.sleep(0.001)


async def test_a_reader_that_leaves_is_forgotten(autojump_clock: MockClock) -> None:
    """Readers come and go; only those that are there count for the limit of readers."""
    admin = Admin()
    for _ in range(MAX_SUBSCRIBERS + 1):
        async with reading(admin) as reader:
            await trio.sleep(0.1)
        assert reader.reply.status == 200


async def test_readers_are_bounded(autojump_clock: MockClock) -> None:
    """Above the limit of readers, one is told to come back, and the others stay."""
    admin = Admin()
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_SUBSCRIBERS):
            reader = exchange()
            nursery.start_soon(admin.app, reader.scope, reader.receive, reader.send)
        await trio.sleep(1)
        reply = await admin.ask("GET", EVENTS)
        assert reply.status == 503
        assert "are already connected" in reply.json["error"]
        nursery.cancel_scope.cancel()
    async with reading(admin) as reader:
        await trio.sleep(0.1)
    assert reader.reply.status == 200


async def test_readers_share_a_snapshot(autojump_clock: MockClock) -> None:
    """However many read, the bridge is asked once a second."""

    class Counting(Bridge):
        asked = 0

        def connections(self, forward: str | None = None) -> list[ConnectionState]:
            self.asked += 1
            return super().connections(forward)

    bridge = Counting()
    admin = Admin(bridge=bridge)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            reader = exchange()
            nursery.start_soon(admin.app, reader.scope, reader.receive, reader.send)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert bridge.asked <= 12


async def test_head_has_no_events(autojump_clock: MockClock) -> None:
    """HEAD tells that there is a stream, and ends."""
    reader = exchange("HEAD")
    with trio.fail_after(1):
        await Admin().app(reader.scope, reader.receive, reader.send)
    assert (reader.reply.status, reader.reply.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_only_get_reads_events(method: str) -> None:
    """The stream is for looking."""
    assert (await Admin(parse_endpoint("unix:///a")).ask(method, EVENTS)).status == 405
