"""The pace of a limited bandwidth: what is set is what comes, however long moving takes."""

import pytest

from hvbridge.splice.pace import Pace


@pytest.mark.parametrize("bandwidth", [64 << 10, 10 << 20, 1 << 30])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_time_that_moving_takes_counts(bandwidth: int, share: float) -> None:
    """Where each piece takes a share of its time to move, the pace is the same as where it takes none."""
    pace, now, moved, piece = Pace(bandwidth, 0.0), 0.0, 0, bandwidth // 100
    while moved < 10 * bandwidth:
        now += share * piece / bandwidth
        moved += piece
        now = max(now, pace.due(piece, now))
    assert moved / now == pytest.approx(bandwidth, rel=0.01)


def test_an_oversleep_is_made_up_for() -> None:
    """A clock that wakes too late each time costs nothing of the bandwidth."""
    pace, now = Pace(1000, 0.0), 0.0
    for _ in range(1000):
        now = max(now, pace.due(10, now)) + 0.004  # of 0.01
    assert 10 * 1000 / now == pytest.approx(1000, rel=0.01)


def test_silence_earns_no_more_than_a_little() -> None:
    """After an hour of silence no more than a tenth of a second's bytes come at once."""
    pace = Pace(1000, 0.0)
    assert pace.due(100, 3600.0) == pytest.approx(3600.0)
    assert pace.due(100, 3600.0) == pytest.approx(3600.1)
