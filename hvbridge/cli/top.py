"""`hvbridge top`: shows a running bridge live in a terminal of any size."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hvbridge.admin.schemas import ForwardView, Status
from hvbridge.admin.stats import Closing
from hvbridge.cli.admin_client import AdminClient, AdminError, with_admin
from hvbridge.cli.errors import EXIT_OK, EXIT_USAGE, print_error
from hvbridge.cli.formatting import age, rate, size
from hvbridge.cli.keyboard import END, INTERRUPT, keys
from hvbridge.proxy.control import ConnectionState
from hvbridge.text import escaped

_INTERVAL = 1.0
"""Seconds between updates."""
_WIDEST = 160
"""Columns; wider lines are hard to follow."""
_HEAD, _FOOT = 1, 1
_SECTION_FRAME = 2
"""Lines of a section besides its rows: its rule and its column heads."""
_GAP = 2
_ENDS = ("q", "Q", INTERRUPT, END)

_GOOD = frozenset({"eof", "shutdown", "idle", "lifetime", "closed by admin"})
"""Closing reasons that are not a problem."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the bridge at one time."""

    taken: float
    """Monotonic time, in seconds."""
    status: Status
    forwards: Sequence[ForwardView]
    connections: Sequence[ConnectionState]
    closings: Sequence[Closing]


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second in each direction; None while unknown."""

    to_upstream: float | None = None
    to_client: float | None = None

    @property
    def total(self) -> float:
        """Both directions together, for sorting."""
        return (self.to_upstream or 0) + (self.to_client or 0)


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot, and the rates since the previous one."""

    now: Snapshot
    forward_rates: Mapping[str, Rate]
    connection_rates: Mapping[int, Rate]


def top(config: Path, *, admin: str | None, token_file: Path | None) -> int:
    """Show a bridge until q or Ctrl-C is pressed; return the exit code."""
    console = Console()
    if not console.is_terminal:
        print_error("top needs a terminal; for a file or a program, use hvbridge status")
        return EXIT_USAGE
    try:
        return with_admin(config, admin, token_file, partial(_watch, console))
    except KeyboardInterrupt:
        return EXIT_OK


def take_snapshot(client: AdminClient, clock: Callable[[], float] = time.monotonic) -> Snapshot:
    """Query everything that is shown. Raises `AdminError`."""
    return Snapshot(clock(), client.status(), client.forwards(), client.connections(), client.closings())


def compare(now: Snapshot, before: Snapshot | None) -> View:
    """Return the view of ``now``, with the rates since ``before``."""
    if (
        before is None or now.status.started != before.status.started
    ):  # the bridge restarted, so counters and ids start over
        return View(now, {}, {})
    seconds = max(now.taken - before.taken, 1e-3)
    forwards = {forward.name: forward for forward in before.forwards}
    connections = {connection.id: connection for connection in before.connections}
    return View(
        now,
        {f.name: _rate(f, forwards[f.name], seconds) for f in now.forwards if f.name in forwards},
        {c.id: _rate(c, connections.get(c.id), seconds) for c in now.connections},
    )


def _rate(
    now: ForwardView | ConnectionState, before: ForwardView | ConnectionState | None, seconds: float
) -> Rate:
    up, down = (before.client_to_upstream, before.upstream_to_client) if before else (0, 0)
    moved = now.client_to_upstream - up, now.upstream_to_client - down
    return Rate(
        *(max(count, 0) / seconds for count in moved)
    )  # a forward that a reload recreated counts from 0


def _watch(console: Console, client: AdminClient) -> int:
    view = compare(take_snapshot(client), None)  # an error at the start is shown on the plain terminal
    trouble = ""
    with keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(draw(view, console.width, console.height, trouble), refresh=True)
            due = time.monotonic() + _INTERVAL
            while (left := due - time.monotonic()) > 0:
                if pressed(left) in _ENDS:
                    return EXIT_OK
            try:
                view, trouble = compare(take_snapshot(client), view.now), ""
            except AdminError as error:  # keep running: the bridge may be restarting
                trouble = str(error)


# Drawing.


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    width: int
    """For a number, its width; for text, the minimum."""
    share: int = 0
    """The share of the remaining width, for text; 0 for numbers, which are right-aligned."""
    dispensable: bool = False
    """Whether a narrow terminal omits it; the last such column is omitted first."""


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    columns: Sequence[_Column]
    rows: Sequence[Sequence[Text]]


def draw(view: View, width: int, height: int, trouble: str = "") -> RenderableType:
    """Return a screen of at most ``width`` columns and ``height`` lines."""
    width = min(width, _WIDEST)
    room = height - _HEAD - _FOOT
    sections = [_forwards(view), _connections(view), _closings(view)]
    while sections and room < len(sections) * (_SECTION_FRAME + 1):
        sections.pop()
    room -= len(sections) * _SECTION_FRAME
    lines: list[RenderableType] = [_head(view)]
    for section, count in zip(sections, _share_out(room, [len(s.rows) for s in sections]), strict=True):
        lines += [_rule(section, count), _table(section, count, width)]
    lines.append(_one_line(Text(escaped(trouble), "bold red") if trouble else Text("press q to quit", "dim")))
    return Constrain(Group(*lines), width)


def _share_out(room: int, wanted: Sequence[int]) -> list[int]:
    """Share the lines between the sections: each gets what it wants, or an equal share."""
    given = [0] * len(wanted)
    while room > 0 and (unsatisfied := [i for i, want in enumerate(wanted) if given[i] < want]):
        for index in unsatisfied[:room]:
            given[index] += 1
        room -= len(unsatisfied)
    return given


def _head(view: View) -> Text:
    now = view.now
    rates = view.forward_rates.values()
    total = sum(speed.total for speed in rates) if rates else None
    return _one_line(
        Text.assemble(
            (f"hvbridge {escaped(now.status.version)}", "bold"),
            "  ",
            ("ready", "bold green") if now.status.ready else ("not ready", "bold red"),
            f"  up {age(now.status.uptime_seconds)}",
            f"  {sum(f.connections for f in now.forwards)} open",
            f"  {rate(total)} in total",
        )
    )


def _forwards(view: View) -> _Section:
    def row(forward: ForwardView) -> list[Text]:
        speed = view.forward_rates.get(forward.name, Rate())
        state = forward.state if forward.state != "listening" else forward.upstream
        bad = forward.upstream == "down"
        if bad and forward.upstream_cause:
            state = f"{state}: {forward.upstream_cause}"
        return [
            _cell(forward.name),
            _cell(f"{forward.connections}/{forward.max_connections}"),
            _cell(rate(speed.to_upstream)),
            _cell(rate(speed.to_client)),
            _cell(state, "red" if bad else "green" if forward.upstream == "up" else ""),
            _cell(size(forward.client_to_upstream + forward.upstream_to_client)),
        ]

    columns = (
        _Column("forward", 8, share=2),
        _Column("open", 9, dispensable=True),
        _Column("to upstream", 11),
        _Column("to client", 11),
        _Column("state", 12, share=3, dispensable=True),
        _Column("total", 9, dispensable=True),
    )
    return _Section("forwards", columns, [row(forward) for forward in view.now.forwards])


def _connections(view: View) -> _Section:
    def row(connection: ConnectionState) -> list[Text]:
        speed = view.connection_rates.get(connection.id, Rate())
        return [
            _cell(connection.peer),
            _cell(rate(speed.to_upstream)),
            _cell(rate(speed.to_client)),
            _cell(connection.forward),
            _cell(age(connection.seconds)),
            _cell(_moved(connection)),
        ]

    def busy(connection: ConnectionState) -> tuple[float, int]:
        moved = connection.client_to_upstream + connection.upstream_to_client
        return view.connection_rates.get(connection.id, Rate()).total, moved

    columns = (
        _Column("peer", 12, share=3),
        _Column("to upstream", 11),
        _Column("to client", 11),
        _Column("forward", 8, share=2, dispensable=True),
        _Column("age", 7, dispensable=True),
        _Column("total", 9, dispensable=True),
    )
    connections = sorted(view.now.connections, key=busy, reverse=True)
    return _Section("busiest connections", columns, [row(connection) for connection in connections])


def _moved(connection: ConnectionState) -> str:
    if connection.state != "open":
        return connection.state
    return size(connection.client_to_upstream + connection.upstream_to_client)


def _closings(view: View) -> _Section:
    def row(closing: Closing) -> list[Text]:
        why = f"{closing.reason}: {closing.detail}" if closing.detail else closing.reason
        return [
            _cell(f"{closing.closed_at.astimezone():%H:%M:%S}"),
            _cell(closing.peer),
            _cell(why, "" if closing.reason in _GOOD else "yellow"),
            _cell(closing.forward),
            _cell(age(closing.seconds)),
            _cell(size(closing.client_to_upstream + closing.upstream_to_client)),
        ]

    columns = (
        _Column("closed", 8),
        _Column("peer", 12, share=2),
        _Column("reason", 12, share=3),
        _Column("forward", 8, share=1, dispensable=True),
        _Column("age", 7, dispensable=True),
        _Column("total", 9, dispensable=True),
    )
    return _Section("recent closings", columns, [row(closing) for closing in view.now.closings])


def _rule(section: _Section, count: int) -> Rule:
    total = len(section.rows)
    title = section.title if count == total else f"{section.title}: {count} of {total}"
    return Rule(Text(title, "bold"), align="left", style="dim")


def _table(section: _Section, count: int, width: int) -> Table:
    shown = _fitting(section.columns, width)
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for index in shown:
        column = section.columns[index]
        if column.share:
            table.add_column(_one_line(Text(column.head)), ratio=column.share, min_width=column.width)
        else:
            table.add_column(_one_line(Text(column.head)), width=column.width, justify="right")
    for row in section.rows[:count]:
        table.add_row(*(row[index] for index in shown))
    return table


def _fitting(columns: Sequence[_Column], width: int) -> list[int]:
    """The indices of the columns that fit."""
    shown = list(range(len(columns)))
    for index in reversed(range(len(columns))):
        if sum(columns[i].width + _GAP for i in shown) - _GAP <= width:
            break
        if columns[index].dispensable:
            shown.remove(index)
    return shown


def _cell(text: str, style: str = "") -> Text:
    return _one_line(Text(escaped(text), style))


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
