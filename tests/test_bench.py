"""The bench's arithmetic, and one short run of its load generator through the baseline."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.figures import Column, Floor, Ratio, against_best, judge, middle, ratio

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc and drives epoll")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is C: there is no cc")

SPEED = Column("up-1", "up", "GiB/s", "more")
DELAY = Column("ping-1-p50", "ping", "µs", "less")


def paired(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Ratio:
    """The ratio of figures of which some were measured in the same round."""
    found = ratio(ours, theirs, "peer")
    assert found is not None
    return found


def test_ratio_pairs_figures_of_the_same_round() -> None:
    """A machine that slows both down tenfold in one round does not change the ratio."""
    assert paired([2.0, 0.2, 2.0], [1.0, 0.1, 1.0]).median == pytest.approx(2.0)


def test_ratio_leaves_out_rounds_that_lack_one_figure() -> None:
    """Only the rounds that have both figures count, and none at all is no ratio."""
    one = paired([1.0, None, 9.0], [2.0, 1.0, None])
    assert (one.median, one.low, one.high) == (0.5, 0.5, 0.5)
    assert ratio([None], [1.0], "peer") is None
    assert ratio([1.0], [0.0], "peer") is None
    assert ratio([], [1.0], "peer") is None


def test_ratio_tells_its_spread() -> None:
    """The lowest and the highest round stand beside the median, and our own nought counts."""
    one = paired([0.0, 1.0, 5.0], [1.0, 1.0, 1.0])
    assert (one.low, one.median, one.high) == (0.0, 1.0, 5.0)


def test_middle_ignores_what_was_not_measured() -> None:
    """The median is of the figures that there are."""
    assert middle([3.0, None, 1.0]) == 2.0
    assert middle([None]) is None


@pytest.mark.parametrize(("better", "peer", "value"), [("more", "nginx", 0.5), ("less", "haproxy-copy", 2.0)])
def test_best_is_the_peer_that_is_hardest_on_us(better: str, peer: str, value: float) -> None:
    """The best peer has the highest speed, or the lowest delay; socat does not count as one."""
    best = against_best(
        {"hvbridge": [2.0], "haproxy-copy": [1.0], "nginx": [4.0], "socat": [100.0]},
        better,  # type: ignore[arg-type]
    )
    assert best is not None
    assert (best.against, best.median) == (peer, value)


def test_best_is_taken_over_rounds_not_in_each() -> None:
    """Peers that are lucky in turn do not add up to one that is always lucky."""
    best = against_best({"hvbridge": [1.0] * 3, "haproxy-copy": [1, 2, 1], "nginx": [1, 1, 2]}, "more")
    assert best is not None
    assert best.median == 1.0


@pytest.mark.parametrize(
    ("column", "floor", "met"),
    [
        (SPEED, Floor("up-1", "best", 0.5), True),
        (SPEED, Floor("up-1", "best", 0.51), False),
        (DELAY, Floor("ping-1-p50", "nginx", 0.5), True),
        (DELAY, Floor("ping-1-p50", "nginx", 0.49), False),
        (DELAY, Floor("ping-1-p50", None, 2.0), True),
        (DELAY, Floor("ping-1-p50", None, 1.9), False),
        (SPEED, Floor("up-1", "haproxy-splice", 0.0), False),
    ],
)
def test_floor_is_met_at_its_limit_and_not_beyond(column: Column, floor: Floor, met: bool) -> None:
    """A floor on speed is a least, on delay a most; what was not measured meets none."""
    assert judge(floor, column, {"hvbridge": [2.0], "nginx": [4.0]}).met is met


@linux_only
def test_another_hvbridge_can_be_measured_beside_this_one() -> None:
    """`--before` adds a peer next to ours, whose interpreter takes the hvbridge it has installed."""
    from bench.__main__ import arguments, chosen_peers

    args = arguments(["--peers", "hvbridge,direct", "--before", sys.executable])
    peers = chosen_peers(args)
    assert [peer.name for peer in peers] == ["hvbridge", "before", "direct"]
    assert peers[1].find() == sys.executable
    with pytest.raises(SystemExit):
        arguments(["--before", "/no/such/python"])


@linux_only
def test_what_changed_is_the_ratio_within_each_round() -> None:
    """The table of changes has the columns that both were measured in, and none without `before`."""
    from bench import table

    samples = {"up-1": {"hvbridge": [2.0, 0.3], "before": [1.0, 0.1]}, "ping-1-p50": {"hvbridge": [1.0]}}
    changes = table.changes((SPEED, DELAY), samples)
    assert changes is not None
    assert [list(column.cells) for column in changes.columns] == [["↑ up"], ["2.50 (2.00-3.00)"]]
    assert table.changes((DELAY,), samples) is None


@linux_only
@needs_compiler
def test_load_goes_through_the_baseline_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of load gives its figures through a real proxy, whose accounts can be read; then all is gone."""
    from bench import load
    from bench.measures import MEASURES
    from bench.peers import PEERS
    from bench.target import Placement, started

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    peer = next(peer for peer in PEERS if peer.name == "plain-trio")
    with started(peer, "unix", load.build(), Placement()) as target:
        figures: dict[str, float] = {}
        for measure in MEASURES:
            if not measure.idle:
                figures |= measure.run(target, 0.05)
        with load.Held(target.binary, target.address, 10):
            assert target.child is not None
            held = target.child.open_fds()
        assert held >= 20
        assert target.child.memory_kib() > 1000
    assert set(figures) == {column.key for m in MEASURES if not m.idle for column in m.columns}
    assert all(value > 0 for value in figures.values())
    assert not list(tmp_path.iterdir())
    assert not list(target.child.family())


@linux_only
@needs_compiler
def test_a_proxy_that_is_not_there_is_said() -> None:
    """The generator's failure names what it could not reach, and why."""
    from bench import load
    from bench.addresses import free_port

    with pytest.raises(load.LoadError, match=r"connect to tcp:127\.0\.0\.1:\d+: Connection refused"):
        load.run(load.build(), "ping", f"tcp:127.0.0.1:{free_port()}", 1, 0.05, ())


@linux_only
@needs_compiler
@pytest.mark.parametrize("address", ["tcp:192.0.2.1:80", "vsock:2:22"])
def test_load_refuses_to_leave_the_machine(address: str) -> None:
    """Only loopback is ever loaded; a vsock to the host least of all."""
    from bench import load

    with pytest.raises(load.LoadError, match="loopback only"):
        load.run(load.build(), "ping", address, 1, 0.05, ())
