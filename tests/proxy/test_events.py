"""Events: everybody hears of them, and what goes wrong there goes no further."""

import logging

import pytest

from hvbridge.proxy.events import Event, EventBus, Reloaded


def test_every_handler_is_given_every_event() -> None:
    """In order."""
    one, other = list[Event](), list[Event]()
    bus = EventBus(one.append, other.append)
    events = [Reloaded("a"), Reloaded("b")]
    for event in events:
        bus(event)
    assert one == other == events
    assert bus.failures == 0


def test_what_a_handler_raises_is_counted_and_logged_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others are given the event all the same; the log does not grow with every failure."""
    heard = list[Event]()

    def fail(_: Event) -> None:
        raise OSError(28, "No space left on device")

    bus = EventBus(fail, heard.append)
    for _ in range(150):
        bus(Reloaded("a"))
    assert len(heard) == bus.failures == 150
    assert [record.getMessage() for record in caplog.records] == [
        f"handling Reloaded failed, {count} times so far: OSError(28, 'No space left on device')"
        for count in (1, 10, 100)
    ]


def test_a_log_that_fails_too_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the failure can be logged, it is only counted."""

    def fail(*_: object) -> None:
        raise ValueError("closed")

    monkeypatch.setattr(logging.getLogger("hvbridge.proxy.events"), "error", fail)
    bus = EventBus(fail)
    bus(Reloaded("a"))
    assert bus.failures == 1
