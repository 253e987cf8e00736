"""Reading the config again: what fails changes nothing, and every outcome is an event."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from hvbridge.app.reload import Reloader
from hvbridge.config import Config, ConfigError, Fault
from hvbridge.proxy.control import ReloadError
from hvbridge.proxy.events import Reloaded, ReloadFailed

from .support import Network, Running, config, running

TWO = "tcp://127.0.0.1:2201"


def reloader(at_work: Running, load: Callable[[], Config] | None) -> Reloader:
    return Reloader(at_work.forwards, load, at_work.events.append)


async def failure(at_work: Running, load: Callable[[], Config] | None) -> list[str]:
    """The faults of a reload that fails, which must leave everything as it is, and be told."""
    before = dict(at_work.forwards.running), at_work.listening()
    with pytest.raises(ReloadError) as caught:
        await reloader(at_work, load).reload()
    assert (dict(at_work.forwards.running), at_work.listening()) == before
    assert at_work.events == [ReloadFailed(caught.value.faults)]
    return caught.value.faults


async def test_it_makes_the_new_config_run() -> None:
    """What changed is returned, and told."""
    async with running(config({"name": "a"})) as at_work:
        change = await reloader(at_work, lambda: config({"name": "a"}, {"name": "b"})).reload()
        assert change == "added: b"
        assert at_work.events == [Reloaded("added: b")]


async def test_a_faulty_config_says_why() -> None:
    """Every fault of the file is told."""

    def load() -> Config:
        raise ConfigError([Fault("x.toml", 1, 2, "forward #1", "it is wrong; write it right")])

    async with running(config({"name": "a"})) as at_work:
        assert await failure(at_work, load) == ["x.toml:1:2: forward #1: it is wrong; write it right"]


async def test_a_listener_that_cannot_be_bound_says_why() -> None:
    """The forward is named, and none of the new listeners stays."""
    async with running(config({"name": "a"}), Network(taken={TWO})) as at_work:
        (fault,) = await failure(at_work, lambda: config({"name": "c"}, {"name": "b"}))
        assert fault.startswith(f'forward "b": cannot listen on {TWO}')


@pytest.mark.parametrize(
    ("table", "settings"), [("admin", {"listen": "tcp://127.0.0.1:9180"}), ("emulator", {"dir": "vm"})]
)
async def test_what_takes_a_restart_says_so(table: str, settings: dict[str, str]) -> None:
    """Tables that only a restart can change are a fault of the reload."""
    async with running(config({"name": "a"})) as at_work:
        faults = await failure(at_work, lambda: config({"name": "a"}, **{table: settings}))
        assert faults == [f"[{table}] has changed; that takes a restart"]


async def test_without_a_file_there_is_nothing_to_read() -> None:
    """A config that came from nowhere cannot be read again."""
    async with running(config({"name": "a"})) as at_work:
        assert await failure(at_work, None) == ["there is no config file to read again"]


async def test_it_comes_too_late_once_the_server_drains() -> None:
    """What was bound for it is closed."""
    async with running(config({"name": "a"})) as at_work:
        await at_work.connect("tcp://127.0.0.1:2200")
        at_work.forwards.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert await failure(at_work, lambda: config({"name": "a"}, {"name": "b"})) == ["hvbridge is ending"]


async def test_one_reload_at_a_time() -> None:
    """Reloads that come together are made one after the other."""
    loads = iter([config({"name": "a"}, {"name": "b"}), config({"name": "a"})])
    async with running(config({"name": "a"})) as at_work:
        both = reloader(at_work, lambda: next(loads))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.reload)
            nursery.start_soon(both.reload)
        assert at_work.events == [Reloaded("added: b"), Reloaded("removed: b")]
