"""What is measured on a target, and the columns that come of it. To add a figure, add a Measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench import load
from bench.figures import Column
from bench.target import Target, TargetError

GIB = 1 << 30
SETTLE_SECONDS = 0.05  # for a peer to close what a client has left, before the next look at its accounts
CONCURRENCY = 64
NEARLY = 0.9  # of the connections asked for: a limit of 20,000 descriptors has room for 9,900


@dataclass(frozen=True)
class Measure:
    """A run that gives one figure a column. `idle` is the number of connections it holds, 0 if it makes load."""

    columns: tuple[Column, ...]
    run: Callable[[Target, float], Mapping[str, float]]
    idle: int = 0


def _bulk(way: str, streams: int) -> Measure:
    speed = Column(f"{way}-{streams}", f"{way}, {streams} stream{'s' * (streams > 1)}", "GiB/s", "more")
    cost = Column(f"cpu-{way}", f"CPU, {way}, 1 stream", "s/GiB", "less")

    def run(target: Target, seconds: float) -> dict[str, float]:
        before = target.cpu_seconds()
        got = target.load(way, streams, seconds)
        time.sleep(SETTLE_SECONDS)
        figures = {speed.key: got["rate"] / GIB}
        if streams == 1 and target.child:
            figures[cost.key] = (target.cpu_seconds() - before) / (got["bytes"] / GIB)
        return figures

    return Measure((speed, cost) if streams == 1 else (speed,), run)


def _ping(connections: int) -> Measure:
    title = f"ping-pong, {connections} conn."
    p50 = Column(f"ping-{connections}-p50", f"{title}, p50", "µs", "less")
    p99 = Column(f"ping-{connections}-p99", f"{title}, p99", "µs", "less")

    def run(target: Target, seconds: float) -> dict[str, float]:
        got = target.load("ping", connections, seconds)
        return {p50.key: got["p50"], p99.key: got["p99"]}

    return Measure((p50, p99), run)


def _connect() -> Measure:
    rate = Column("connect", "connections", "a second", "more")
    cost = Column("cpu-connect", "CPU, connections", "µs each", "less")

    def run(target: Target, seconds: float) -> dict[str, float]:
        before = target.cpu_seconds()
        got = target.load("connect", CONCURRENCY, seconds)
        time.sleep(4 * SETTLE_SECONDS)
        figures = {rate.key: got["rate"]}
        if target.child:
            figures[cost.key] = (target.cpu_seconds() - before) / got["connections"] * 1e6
        return figures

    return Measure((rate, cost), run)


def _idle(count: int) -> Measure:
    memory = Column(f"memory-{count}", f"memory, {count:,} idle", "KiB each", "less")
    fds = Column(f"fds-{count}", f"descriptors, {count:,} idle", "each", "less")

    def run(target: Target, _seconds: float) -> dict[str, float]:
        if not target.child:
            return {}
        held = min(count, target.idle_that_fit)
        if held < NEARLY * count:
            raise TargetError(f"holds {held:,} idle connections at most, not {count:,}")
        time.sleep(SETTLE_SECONDS)  # the connection that proved it ready is gone
        memory_before, fds_before = target.child.memory_kib(), target.child.open_fds()
        with load.Held(target.binary, target.address, held):
            time.sleep(4 * SETTLE_SECONDS)
            return {
                memory.key: (target.child.memory_kib() - memory_before) / held,
                fds.key: round((target.child.open_fds() - fds_before) / held, 2),  # but for a pipe or two
            }

    return Measure((memory, fds), run, idle=count)


MEASURES = (
    _bulk("up", 1),
    _bulk("down", 1),
    _bulk("up", 16),
    _bulk("down", 16),
    _ping(1),
    _ping(64),
    _connect(),
    _idle(1_000),
    _idle(10_000),
)
