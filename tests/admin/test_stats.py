"""What the admin endpoint remembers of a bridge."""

import gc
import weakref

import pytest

from hvbridge.address.endpoint import parse_endpoint
from hvbridge.admin.stats import (
    DIAL_BUCKETS,
    MAX_SUBSCRIBERS,
    RECENT,
    Closing,
    Statistics,
    TooManySubscribersError,
    UpstreamChange,
)
from hvbridge.proxy.events import AcceptPaused, ConnectionClosed, Reloaded, ReloadFailed, UpstreamChanged
from hvbridge.splice import Reason
from hvbridge.transport.errors import Cause, DialError

from .support import record


def test_totals_add_up() -> None:
    """Each closing counts for its forward: its reason, its bytes each way, and its dial where one succeeded."""
    stats = Statistics()
    stats.on_event(ConnectionClosed(record("ssh", up=1, down=2, dial_seconds=0.02)))
    stats.on_event(ConnectionClosed(record("ssh", up=10, down=20, dial_seconds=61.0)))
    stats.on_event(ConnectionClosed(record("ssh", Reason.DIAL_FAILED, up=0, down=0, dial_seconds=None)))
    stats.on_event(ConnectionClosed(record("rdp", Reason.REFUSED, up=0, down=0, dial_seconds=None)))
    ssh = stats.totals["ssh"]
    assert ssh.closed == 3
    assert ssh.reasons == {Reason.EOF: 2, Reason.DIAL_FAILED: 1}
    assert (ssh.client_to_upstream, ssh.upstream_to_client) == (11, 22)
    assert ssh.dial_seconds == pytest.approx(61.02)
    assert ssh.dials[DIAL_BUCKETS.index(0.025)] == 1
    assert ssh.dials[-1] == 1
    assert sum(ssh.dials) == 2
    assert stats.totals["rdp"].reasons == {Reason.REFUSED: 1}


def test_a_dial_of_a_bound_is_in_its_bucket() -> None:
    """A bucket has the dials up to its bound and with it, as Prometheus has it ("le")."""
    stats = Statistics()
    stats.on_event(ConnectionClosed(record(dial_seconds=DIAL_BUCKETS[3])))
    assert stats.totals["ssh"].dials[3] == 1


def test_recent_closings_are_bounded() -> None:
    """The last 200 closings are kept, newest first, and no more."""
    stats = Statistics()
    records = [record() for _ in range(RECENT + 50)]
    for closed in records:
        stats.on_event(ConnectionClosed(closed))
    assert [closing.id for closing in stats.recent()] == [closed.id for closed in records[:49:-1]]


def test_a_bug_is_not_kept() -> None:
    """What an exception of a connection holds is free once its closing has been counted."""

    class BugError(Exception):
        pass

    stats = Statistics()
    bug = BugError()
    kept = weakref.ref(bug)
    stats.on_event(ConnectionClosed(record(reason=Reason.INTERNAL_ERROR, bug=bug)))
    del bug
    gc.collect()
    assert kept() is None


def test_subscribers_hear_of_closings_and_upstreams() -> None:
    """Who subscribes hears of what happens from then on, in order, until leaving."""
    stats = Statistics()
    stats.on_event(ConnectionClosed(record()))
    error = DialError(parse_endpoint("tcp://192.0.2.1:22"), Cause.REFUSED)
    with stats.subscribe() as subscriber:
        stats.on_event(ConnectionClosed(closed := record()))
        stats.on_event(UpstreamChanged("ssh", error))
        stats.on_event(UpstreamChanged("ssh", None))
        events = subscriber.take()
        assert [event.kind for event in events] == ["closed", "upstream", "upstream"]
        closing, down, up = (event.value for event in events)
        assert isinstance(closing, Closing)
        assert closing.id == closed.id
        assert down == UpstreamChange("ssh", "down", "the connection was refused")
        assert up == UpstreamChange("ssh", "up", "")
        assert subscriber.take() == []
    stats.on_event(ConnectionClosed(record()))
    assert subscriber.take() == []


def test_a_subscriber_who_does_not_take_loses_the_oldest() -> None:
    """However many events come, a subscriber holds a bounded number of them: the newest."""
    stats = Statistics()
    with stats.subscribe() as subscriber:
        for _ in range(10_000):
            stats.on_event(ConnectionClosed(last := record()))
        events = subscriber.take()
    assert 0 < len(events) <= 1000
    newest = events[-1].value
    assert isinstance(newest, Closing)
    assert newest.id == last.id


def test_subscribers_are_bounded() -> None:
    """There is a number of subscribers above which none is taken, until one leaves."""
    stats = Statistics()
    held = [stats.subscribe() for _ in range(MAX_SUBSCRIBERS)]
    for one in held:
        one.__enter__()
    with pytest.raises(TooManySubscribersError), stats.subscribe():
        pass
    held[0].__exit__(None, None, None)
    with stats.subscribe():
        pass


def test_pauses_and_reloads_count() -> None:
    """Pauses of accepting count for their forward, reloads by whether they succeeded."""
    stats = Statistics()
    stats.on_event(AcceptPaused("ssh", OSError(24, "too many open files")))
    stats.on_event(Reloaded("added: rdp"))
    stats.on_event(ReloadFailed(["line 1: no", "line 2: nor that"]))
    stats.on_event(Reloaded("no change"))
    assert stats.totals["ssh"].accept_pauses == 1
    assert stats.reloads == {True: 2, False: 1}
