"""`hvbridge top`: what stands on the screen, that it fits, and how the terminal is left."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hvbridge.address.endpoint import TcpEndpoint, parse_endpoint
from hvbridge.admin.schemas import ForwardView, Status
from hvbridge.admin.stats import Closing
from hvbridge.cli.admin_client import AdminClient
from hvbridge.cli.errors import EXIT_USAGE
from hvbridge.cli.formatting import age, rate, size
from hvbridge.cli.top import Snapshot, compare, draw, top
from hvbridge.proxy.control import ConnectionState
from tests.cli.fake_admin import FakeAdmin, closing, connection, forward

STARTED = datetime(2026, 11, 25, 10, tzinfo=UTC)


def snapshot(
    taken: float = 0.0,
    forwards: list[dict[str, Any]] | None = None,
    connections: list[dict[str, Any]] | None = None,
    closings: list[dict[str, Any]] | None = None,
    started: datetime = STARTED,
) -> Snapshot:
    return Snapshot(
        taken,
        Status("0.1.0", started, 7384.2, True),
        [ForwardView(**row) for row in forwards or [forward("ssh")]],
        [ConnectionState(**row) for row in connections or []],
        [Closing(**row | {"closed_at": STARTED}) for row in closings or []],
    )


def screen(
    now: Snapshot, before: Snapshot | None, width: int = 80, height: int = 24, trouble: str = ""
) -> list[str]:
    console = Console(width=width, height=height, legacy_windows=False)
    with console.capture() as shown:
        console.print(draw(compare(now, before), width, height, trouble))
    return shown.get().splitlines()


def cells(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


# What is shown.


def test_throughput_is_that_between_two_snapshots() -> None:
    """A forward's rates are the bytes of each direction since the snapshot before, by the time between."""
    before = snapshot(0, [forward("ssh", client_to_upstream=0, upstream_to_client=1 << 20)])
    now = snapshot(2, [forward("ssh", client_to_upstream=2048, upstream_to_client=5 << 20)])
    head, _, _, row, *_ = screen(now, before)
    assert cells(row) == ["ssh", "2/1024", "1.0 KiB/s", "2.0 MiB/s", "up", "5.0 MiB"]
    assert cells(head) == ["hvbridge 0.1.0", "ready", "up 2h 3m", "2 open", "2.0 MiB/s in total"]


@pytest.mark.parametrize("before", [None, snapshot(0, started=datetime(2026, 1, 1, tzinfo=UTC))])
def test_no_throughput_is_made_up(before: Snapshot | None) -> None:
    """At first, and after the bridge was started anew, the rates are unknown."""
    _, _, _, row, *_ = screen(snapshot(1), before)
    assert cells(row)[2:4] == ["-", "-"]


def test_the_busiest_connections_come_first() -> None:
    """Connections are ordered by throughput, and those that move nothing by what they have moved."""
    before = snapshot(0, connections=[connection(1), connection(2, upstream_to_client=9000), connection(3)])
    now = snapshot(
        1,
        connections=[
            connection(1),
            connection(2, upstream_to_client=9000),
            connection(3, upstream_to_client=2500),
            connection(4, client_to_upstream=600, upstream_to_client=0, seconds=0.5),  # has just come
            connection(5, client_to_upstream=0, upstream_to_client=0, state="dialling"),
        ],
    )
    lines = screen(now, before)
    start = next(index for index, line in enumerate(lines) if line.startswith("busiest connections"))
    rows = [cells(line) for line in lines[start + 2 : start + 7]]
    assert [row[0] for row in rows] == [f"127.0.0.1:5000{number}" for number in (4, 3, 2, 1, 5)]
    assert rows[0][1:] == ["600 B/s", "0 B/s", "ssh", "0.5s", "600 B"]
    assert rows[-1][-1] == "dialling"


def test_closings_tell_their_reason() -> None:
    """A recent closing is shown with when, who, why, and the detail that there is."""
    lines = screen(
        snapshot(closings=[closing(1, reason="reset by client", detail="errno 104")]), None, width=140
    )
    when = f"{STARTED.astimezone():%H:%M:%S}"
    assert cells(lines[-2])[:4] == [when, "127.0.0.1:50001", "reset by client: errno 104", "ssh"]


def test_trouble_is_told_below_what_was_known_last() -> None:
    """A bridge that no longer answers is told in the last line, and its last state stays."""
    lines = screen(snapshot(1), snapshot(0), trouble="nothing listens there")
    assert lines[-1].strip() == "nothing listens there"
    assert any(line.startswith("ssh ") for line in lines)


@pytest.mark.parametrize("size_", [(80, 24), (200, 60), (60, 15), (40, 10), (20, 5), (10, 2), (1, 1)])
def test_a_screen_is_never_exceeded(size_: tuple[int, int]) -> None:
    """However much there is to show, it fits the terminal, and says how much is left out."""
    width, height = size_
    now = snapshot(
        1,
        [forward(f"a-rather-long-name-{number}") for number in range(30)],
        [connection(number, peer=f"[fe80::1234:5678:9abc:def0]:{number}") for number in range(1000)],
        [closing(number, reason="dial failed", detail="x" * 300) for number in range(200)],
    )
    lines = screen(now, snapshot(0), width, height)
    assert len(lines) <= max(height, 2)
    assert max(map(len, lines)) <= width
    if size_ == (80, 24):
        assert len(lines) == height
        assert lines[1].startswith("forwards: 6 of 30 ─")
        assert cells(lines[2]) == ["forward", "open", "to upstream", "to client", "state", "total"]


def test_lines_go_to_who_needs_them() -> None:
    """What one section does not need, the others have."""
    now = snapshot(1, connections=[connection(number) for number in range(50)], closings=[closing(1)])
    shown = [line for line in screen(now, None) if line.startswith("127.0.0.1:")]
    assert len(shown) == 24 - 2 - 3 * 2 - 1 - 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (999.6, "1.0 KiB"), (1024, "1.0 KiB"), (1023 << 10, "1.0 MiB"),
        (1 << 30, "1.0 GiB"), (999 << 60, "999.0 EiB"),
    ],
)  # fmt: skip
def test_sizes_are_short(count: float, text: str) -> None:
    """Bytes are rounded to the unit that keeps them short."""
    assert size(count) == text
    assert rate(count) == f"{text}/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (59.6, "1m 0s"), (3599, "59m 59s"),
        (3600, "1h 0m"), (86399, "23h 59m"), (90000, "1d 1h"),
    ],
)  # fmt: skip
def test_ages_have_two_units(seconds: float, text: str) -> None:
    """A span of time is told by its two largest units."""
    assert age(seconds) == text


def test_a_client_reads_what_is_shown() -> None:
    """What the API answers is what the screen is made of."""
    bridge = FakeAdmin()
    with bridge.on_tcp() as text:
        endpoint = parse_endpoint(text)
        assert isinstance(endpoint, TcpEndpoint)
        client = AdminClient(endpoint)
        assert [c.id for c in client.connections()] == [1, 2]
        assert [c.reason for c in client.closings()] == ["eof", "eof"]
        assert client.status().started == STARTED


def test_a_file_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal `top` says what to use instead."""
    assert top(Path("no-such.toml"), admin=None, token_file=None) == EXIT_USAGE
    assert "use hvbridge status" in capsys.readouterr().err


# In a terminal.

if sys.platform != "win32":
    import fcntl
    import pty
    import select
    import signal
    import struct
    import termios

    PATIENCE = 30.0

    class Terminal:
        """A pseudo-terminal of a fixed size with `hvbridge top` in it."""

        def __init__(self, endpoint: str, columns: int, lines: int) -> None:
            environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
            environ |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
            command = [sys.executable, "-m", "hvbridge", "top", "--admin", endpoint]
            self.outer, inner = pty.openpty()
            self.resize(columns, lines)
            self.cooked = termios.tcgetattr(inner)
            self.inner = inner
            self.process = subprocess.Popen(
                command, stdin=inner, stdout=inner, stderr=inner, env=environ, start_new_session=True
            )
            self.output = ""

        def resize(self, columns: int, lines: int) -> None:
            fcntl.ioctl(self.outer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

        def expect(self, pattern: str) -> None:
            """Read until ``pattern`` has come."""
            end = time.monotonic() + PATIENCE
            while not re.search(pattern, self.output):
                assert time.monotonic() < end, self.output
                if select.select([self.outer], [], [], 0.1)[0]:
                    self.output += os.read(self.outer, 65536).decode()

        def type(self, text: bytes) -> None:
            os.write(self.outer, text)

        def frames(self) -> list[list[str]]:
            """Each screen that was drawn whole, without its colours."""
            drawn = self.output.partition("\x1b[?1049h")[2].split("\x1b[H")[1:]
            plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in drawn]
            return [frame.replace("\r", "").split("\n") for frame in plain if "press q to quit" in frame]

        def wait(self) -> int:
            """Wait for the end, and return the exit code."""
            self.expect(r"\x1b\[\?1049l")
            return self.process.wait(PATIENCE)

        def close(self) -> None:
            self.process.kill()
            self.process.wait(PATIENCE)
            os.close(self.outer)
            os.close(self.inner)

    @pytest.fixture
    def bridge() -> FakeAdmin:
        return FakeAdmin()

    @pytest.fixture
    def terminal(bridge: FakeAdmin) -> Iterator[Terminal]:
        with bridge.on_tcp() as endpoint:
            terminal = Terminal(endpoint, 80, 24)
            yield terminal
            terminal.close()

    def test_a_terminal_is_filled_and_left_as_it_was(bridge: FakeAdmin, terminal: Terminal) -> None:
        """In 80x24, each frame has 24 lines of 80 columns, nothing is cleared between, and q gives all back."""
        terminal.expect(r"(?s)press q to quit.*press q to quit")
        terminal.type(b"q")
        assert terminal.wait() == 0
        for frame in terminal.frames():
            assert len(frame) == 24
            assert {len(line) for line in frame} == {80}
            assert frame[0].startswith("hvbridge 0.1.0  ready  up 2h 3m  2 open")
        assert "\x1b[2J" not in terminal.output.partition("\x1b[?1049h")[2]
        assert terminal.output.endswith("\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(terminal.inner) == terminal.cooked

    def test_a_new_size_is_taken(bridge: FakeAdmin, terminal: Terminal) -> None:
        """A terminal that becomes smaller is filled anew."""
        terminal.expect("press q to quit")
        terminal.output = ""
        terminal.resize(50, 12)
        terminal.expect("press q to quit")
        terminal.output = f"\x1b[?1049h{terminal.output}"
        assert {len(line) for line in terminal.frames()[-1]} == {50}
        assert len(terminal.frames()[-1]) == 12

    def test_ctrl_c_ends_it(bridge: FakeAdmin, terminal: Terminal) -> None:
        """Ctrl-C ends it as q does, without a word."""
        terminal.expect("press q to quit")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.output

    def test_a_restart_is_watched(bridge: FakeAdmin, terminal: Terminal) -> None:
        """When the bridge fails it is told, and when it is back so is the view."""
        terminal.expect("press q to quit")
        before = bridge.answers["GET", "/api/v1/status"]
        bridge.put("/api/v1/status", {"error": "just a moment"}, 503)
        terminal.expect("answered: just a moment")
        terminal.output = ""
        bridge.answers["GET", "/api/v1/status"] = before
        terminal.expect("press q to quit")
