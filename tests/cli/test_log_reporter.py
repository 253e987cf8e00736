"""The log of a running bridge: its fields are those of the reference page, and no peer floods it."""

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import LogCapture

import hvbridge
from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.cli import log
from hvbridge.cli import log_throttle as flood
from hvbridge.cli.log_reporter import LogReporter
from hvbridge.proxy.events import ConnectionClosed
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.splice import Reason, Transfer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "logs.md"
SOURCES = Path(hvbridge.__file__).parent
LEVELS = ("debug", "info", "warning", "error")


@pytest.fixture
def entries() -> Iterator[list[Any]]:
    """What is logged."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    yield capture.entries
    structlog.configure(**before)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(
    reason: Reason = Reason.DIAL_FAILED, peer: str = "192.0.2.1:50000", dialled: float | None = None
) -> ConnectionRecord:
    transfer = Transfer(reason=reason, detail="it is so")
    return ConnectionRecord(
        "ssh", peer, TcpEndpoint("192.0.2.9", 22), 0.0, dial_seconds=dialled, transfer=transfer
    )


def written(entries: list[Any]) -> int:
    return sum(entry["event"] == "connection closed" for entry in entries)


def suppressed(entries: list[Any]) -> list[Any]:
    return [entry for entry in entries if entry["event"] == "closings suppressed"]


# A flood.


@pytest.mark.parametrize("reason", [Reason.DIAL_FAILED, Reason.REFUSED, Reason.ERROR_ON_CLIENT])
def test_a_peer_that_comes_in_vain_is_counted(reason: Reason, entries: list[Any]) -> None:
    """Above 10 in 10 seconds, closings of one address are counted, whatever its port, and told in one line."""
    clock = Clock()
    reporter = LogReporter(None, clock)
    for port in range(500):
        reporter.on_event(ConnectionClosed(record(reason, f"192.0.2.1:{50000 + port}")))
        clock.now += 0.01
    assert (written(entries), suppressed(entries)) == (10, [])
    clock.now += 10
    for _ in range(2):
        reporter.on_event(ConnectionClosed(record(reason, "192.0.2.1:40000")))
    assert written(entries) == 12
    assert suppressed(entries) == [
        {
            "event": "closings suppressed",
            "log_level": "warning",
            "forward": "ssh",
            "peer": "192.0.2.1",
            "suppressed": 490,
            "reasons": {str(reason): 490},
        }
    ]


@pytest.mark.parametrize(
    ("reason", "dialled"),
    [
        (Reason.EOF, 0.1),
        (Reason.RESET_BY_CLIENT, 0.1),
        (Reason.ERROR_ON_CLIENT, 0.1),
        (Reason.SHUTDOWN, None),
        (Reason.CLOSED_BY_ADMIN, None),
        (Reason.INTERNAL_ERROR, None),
    ],
)
def test_every_other_closing_is_written(reason: Reason, dialled: float | None, entries: list[Any]) -> None:
    """A connection that reached its upstream, or ended by nobody's fault, always has its line."""
    reporter = LogReporter(None, Clock())
    for _ in range(100):
        reporter.on_event(ConnectionClosed(record(reason, dialled=dialled)))
    assert written(entries) == 100


@pytest.mark.parametrize(
    "peers",
    [
        ("192.0.2.1:1", "192.0.2.2:1"),
        ("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"),
        ("vsock://3:1", "vsock://4:1"),
    ],
)
def test_one_peer_does_not_silence_another(peers: tuple[str, str], entries: list[Any]) -> None:
    """Each address has lines of its own."""
    reporter = LogReporter(None, Clock())
    for _ in range(20):
        reporter.on_event(ConnectionClosed(record(peer=peers[0])))
    reporter.on_event(ConnectionClosed(record(peer=peers[1])))
    assert [entry["peer"] for entry in entries] == [peers[0]] * 10 + [peers[1]]


def test_many_peers_write_no_more_than_a_bound(entries: list[Any]) -> None:
    """However many addresses a flood has, its lines in a window are few, and the others are counted in one."""
    clock = Clock()
    reporter = LogReporter(None, clock)
    for number in range(4000):
        reporter.on_event(ConnectionClosed(record(peer=f"192.0.{number // 250}.{number % 250}:1")))
        clock.now += 0.0005
    assert written(entries) == 100
    clock.now += 10
    reporter.on_event(ConnectionClosed(record(peer="198.51.100.1:1")))
    assert written(entries) == 101
    assert [(line["peer"], line["suppressed"]) for line in suppressed(entries)] == [("others", 3900)]


def test_the_addresses_of_an_ipv6_subnet_are_one_peer(entries: list[Any]) -> None:
    """A machine with a /64 of its own counts once, whatever address it takes."""
    reporter = LogReporter(None, Clock())
    for number in range(50):
        reporter.on_event(ConnectionClosed(record(peer=f"[2001:db8::{number:x}]:5000{number % 10}")))
    assert written(entries) == 10


def test_the_memory_of_peers_is_bounded(entries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many peers the oldest is forgotten, and what was counted of it is told at once."""
    monkeypatch.setattr(flood, "MOST_PEERS", 3)
    reporter = LogReporter(None, Clock())
    for last in range(1, 6):
        for _ in range(12):
            reporter.on_event(ConnectionClosed(record(peer=f"192.0.2.{last}:1")))
    told = [(entry["peer"], entry["suppressed"]) for entry in suppressed(entries)]
    assert told == [("192.0.2.1", 2), ("192.0.2.2", 2)]


def test_unseen_levels_are_not_counted(entries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where warnings are not logged, closings in vain are neither written nor counted."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    reporter = LogReporter(None, Clock())
    counted: list[object] = []
    monkeypatch.setattr(flood.LogThrottle, "allow", lambda *closing: counted.append(closing))
    for _ in range(20):
        reporter.on_event(ConnectionClosed(record()))
    assert entries == counted == []


async def test_a_count_is_told_when_its_window_is_over(
    entries: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    """When a flood has ended, its count is written within two windows, though nothing more happens."""
    reporter = LogReporter(None, trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.flush_throttle)
        await trio.sleep(1)
        for _ in range(15):
            reporter.on_event(ConnectionClosed(record()))
        await trio.sleep(2 * flood.WINDOW)
        assert [entry["suppressed"] for entry in suppressed(entries)] == [5]
        nursery.cancel_scope.cancel()


async def test_nothing_is_lost_at_the_end(entries: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    """What was counted when the bridge ends is told then."""
    reporter = LogReporter(None, trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.flush_throttle)
        await trio.sleep(1)
        for _ in range(15):
            reporter.on_event(ConnectionClosed(record()))
        nursery.cancel_scope.cancel()
    assert [entry["suppressed"] for entry in suppressed(entries)] == [5]


# The fields.


def table(*head: str) -> list[list[str]]:
    """The rows of the table of the page that has this head."""
    rows: list[list[str]] = []
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells == list(head):
            inside = True
        elif inside and not cells:
            break
        elif inside and not line.startswith("|--"):
            rows.append(cells)
    assert rows, f"no table with the head {head}"
    return rows


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def logged_events() -> Iterator[tuple[str, str, set[str]]]:
    """Each event that the code logs with structlog: its name, its level, its fields."""
    for file in SOURCES.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "structlog.get_logger()" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            name = ast.unparse(node.func.value)
            if name in ("logger", "self._log") and node.func.attr in LEVELS:
                event = node.args[0]
                assert isinstance(event, ast.Constant), ast.unparse(node)
                assert isinstance(event.value, str)
                yield event.value, node.func.attr, {keyword.arg or "**" for keyword in node.keywords}


def test_every_event_is_in_the_reference() -> None:
    """The page of the log has every event, with its level and its fields, and no other."""
    documented = {
        row[0].strip("`"): (row[1], words(row[2])) for row in table("event", "level", "fields", "when")
    }
    closed = documented.pop("connection closed")
    assert closed == ("info, warning, error", set())
    assert documented.pop("log lines dropped") == ("warning", {"count"})  # by the writer itself
    assert documented == {event: (level, fields) for event, level, fields in logged_events()}


def test_every_field_of_a_closing_is_in_the_reference(entries: list[Any]) -> None:
    """The page of closing reasons has every field of the closing record, in its order, and no other."""
    LogReporter(None, Clock()).on_event(ConnectionClosed(record()))
    page = (PAGE.parent / "closing-reasons.md").read_text(encoding="utf-8")
    fields = page.partition("## The closing record")[2]
    rows = re.findall(r"^\| (`.*?) \|", fields, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert documented == [key for key in entries[0] if key not in ("event", "log_level")]


def test_every_line_has_the_fields_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --log-format json, every line has the fields that the page gives all lines."""
    before = structlog.get_config()
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    handlers = logging.getLogger().handlers
    try:
        writer = log.configure("json", "info")
        broken = record(Reason.INTERNAL_ERROR)
        broken.bug = ValueError("a bug")
        LogReporter(None, Clock()).on_event(ConnectionClosed(broken))
        logging.getLogger("a.library").warning("a word")
        writer.close(10)
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers = handlers
    bug, library = map(json.loads, stream.getvalue().splitlines())
    rows = {row[0].strip("`"): row[1] for row in table("field", "in", "meaning")}
    everywhere = {field for field, where in rows.items() if where == "every line"}
    assert everywhere == {"event", "level", "timestamp"}
    assert set(library) == everywhere | {"logger"}
    assert everywhere | {"exception"} <= set(bug)
    assert rows.keys() == everywhere | {"logger", "exception"}
