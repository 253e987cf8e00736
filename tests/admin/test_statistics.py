"""What the admin endpoint remembers of a bridge."""

import gc
import weakref

import pytest

from hvbridge.admin.statistics import (
    DIAL_BUCKETS,
    MAX_SUBSCRIBERS,
    RECENT,
    Statistics,
    TooManySubscribersError,
)
from hvbridge.endpoint import parse_endpoint
from hvbridge.splice import Reason
from hvbridge.transport.errors import Cause, DialError

from .support import record


def test_totals_add_up() -> None:
    """Each closing counts for its forward: its reason, its bytes each way, and its dial where one succeeded."""
    statistics = Statistics()
    statistics.closed(record("ssh", up=1, down=2, dial_seconds=0.02))
    statistics.closed(record("ssh", up=10, down=20, dial_seconds=61.0))
    statistics.closed(record("ssh", Reason.DIAL_FAILED, up=0, down=0, dial_seconds=None))
    statistics.closed(record("rdp", Reason.REFUSED, up=0, down=0, dial_seconds=None))
    ssh = statistics.totals["ssh"]
    assert ssh.closed == 3
    assert ssh.reasons == {Reason.EOF: 2, Reason.DIAL_FAILED: 1}
    assert (ssh.client_to_upstream, ssh.upstream_to_client) == (11, 22)
    assert ssh.dial_seconds == pytest.approx(61.02)
    assert ssh.dials[DIAL_BUCKETS.index(0.025)] == 1
    assert ssh.dials[-1] == 1
    assert sum(ssh.dials) == 2
    assert statistics.totals["rdp"].reasons == {Reason.REFUSED: 1}


def test_a_dial_of_a_bound_is_in_its_bucket() -> None:
    """A bucket has the dials up to its bound and with it, as Prometheus has it ("le")."""
    statistics = Statistics()
    statistics.closed(record(dial_seconds=DIAL_BUCKETS[3]))
    assert statistics.totals["ssh"].dials[3] == 1


def test_recent_closings_are_bounded() -> None:
    """The last 200 closings are kept, newest first, and no more."""
    statistics = Statistics()
    records = [record() for _ in range(RECENT + 50)]
    for closed in records:
        statistics.closed(closed)
    assert [closing.id for closing in statistics.recent()] == [closed.id for closed in records[:49:-1]]


def test_a_bug_is_not_kept() -> None:
    """What an exception of a connection holds is free once its closing has been counted."""

    class BugError(Exception):
        pass

    statistics = Statistics()
    bug = BugError()
    kept = weakref.ref(bug)
    statistics.closed(record(reason=Reason.INTERNAL_ERROR, bug=bug))
    del bug
    gc.collect()
    assert kept() is None


def test_subscribers_hear_of_closings_and_upstreams() -> None:
    """Who subscribes hears of what happens from then on, in order, until leaving."""
    statistics = Statistics()
    statistics.closed(record())
    error = DialError(parse_endpoint("tcp://192.0.2.1:22"), Cause.REFUSED)
    with statistics.subscribe() as subscriber:
        statistics.closed(closed := record())
        statistics.upstream_changed("ssh", error)
        statistics.upstream_changed("ssh", None)
        events = subscriber.take()
        assert [event.kind for event in events] == ["closed", "upstream", "upstream"]
        assert events[0].value.id == closed.id
        assert [(e.value.upstream, e.value.cause) for e in events[1:]] == [
            ("down", "the connection was refused"),
            ("up", ""),
        ]
        assert subscriber.take() == []
    statistics.closed(record())
    assert subscriber.take() == []


def test_a_subscriber_who_does_not_take_loses_the_oldest() -> None:
    """However many events come, a subscriber holds a bounded number of them: the newest."""
    statistics = Statistics()
    with statistics.subscribe() as subscriber:
        for _ in range(10_000):
            statistics.closed(last := record())
        events = subscriber.take()
    assert 0 < len(events) <= 1000
    assert events[-1].value.id == last.id


def test_subscribers_are_bounded() -> None:
    """There is a number of subscribers above which none is taken, until one leaves."""
    statistics = Statistics()
    held = [statistics.subscribe() for _ in range(MAX_SUBSCRIBERS)]
    for one in held:
        one.__enter__()
    with pytest.raises(TooManySubscribersError), statistics.subscribe():
        pass
    held[0].__exit__(None, None, None)
    with statistics.subscribe():
        pass


def test_pauses_and_reloads_count() -> None:
    """Pauses of accepting count for their forward, reloads by whether they succeeded."""
    statistics = Statistics()
    statistics.exhausted("ssh", OSError(24, "too many open files"))
    statistics.reloaded("added: rdp")
    statistics.reload_failed(["line 1: no", "line 2: nor that"])
    statistics.reloaded("no change")
    assert statistics.totals["ssh"].accept_pauses == 1
    assert statistics.reloads == {True: 2, False: 1}
