"""When the epoll splicer busy-polls and when it blocks."""

from hvbridge.splice.busy_poll import FEW_POLLS, MANY_POLLS, BusyPoll, Events

EVENT = (3, 1)


class Epoll:
    """An epoll in which something is ready at the poll with the number ``ready_at``, if any."""

    def __init__(self, ready_at: int | None = None) -> None:
        self.polls = 0
        self._ready_at = ready_at

    def poll(self, timeout: float, maxevents: int) -> Events:
        assert timeout == 0
        self.polls += 1
        return [EVENT] if self.polls == self._ready_at else []


def polls(busy_poll: BusyPoll) -> int:
    """How often an epoll with nothing ready is polled before blocking."""
    epoll = Epoll()
    assert busy_poll.poll(epoll) == []
    return epoll.polls


def test_nothing_ready_blocks_after_few_polls() -> None:
    """An idle splicer spends little before it blocks, however often it wakes."""
    busy_poll = BusyPoll(cpus=2)
    assert all(FEW_POLLS * 7 // 8 <= polls(busy_poll) <= FEW_POLLS for _ in range(100))


def test_a_success_is_worth_more_polls_which_decay() -> None:
    """After an answer came in time more polls are tried, and ever fewer while none comes."""
    busy_poll = BusyPoll(cpus=2)
    assert busy_poll.poll(Epoll(ready_at=5)) == [EVENT]
    assert polls(busy_poll) == MANY_POLLS
    tried = [polls(busy_poll) for _ in range(20)]
    assert tried[0] < MANY_POLLS
    assert tried[-1] <= FEW_POLLS


def test_a_pause_blocks_at_once_and_passes() -> None:
    """After `pause` there is no poll before blocking, then one more with each miss."""
    busy_poll = BusyPoll(cpus=2)
    busy_poll.pause()
    assert [polls(busy_poll) for _ in range(FEW_POLLS)] == list(range(FEW_POLLS))


def test_one_cpu_never_busy_polls() -> None:
    """No peer can answer while the only CPU is busy."""
    busy_poll = BusyPoll(cpus=1)
    assert busy_poll.poll(Epoll(ready_at=1)) == []
    assert polls(busy_poll) == 0
