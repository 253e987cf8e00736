"""Reload: what is open lives on, what changed is for new connections, and a bad file changes nothing."""

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from .support import MODULE, Bridge, Place, Program, Service, dial, dial_is_reset, echo, talk, wait_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no SIGHUP; the admin API reloads"
)

StartService = Callable[[Callable[[socket.socket], None]], Service]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Changing:
    """A bridge, and its config file, which a test rewrites."""

    def __init__(self, place: Place, *arguments: object) -> None:
        self._place = place
        self._arguments = arguments
        self.bridge: Bridge
        self.path: Path

    def write(self, *forwards: dict[str, object], text: str = "") -> None:
        """Write the config, by replacing the file as editors do."""
        path = self._place.config(*forwards, partition=None, name="new.toml")
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
        self.path = path.rename(self._place.directory / "config.toml")

    def start(self, *forwards: dict[str, object], text: str = "") -> Bridge:
        """Start the bridge with a config."""
        self.write(*forwards, text=text)
        self.bridge = self._place.bridge_of(self.path, *self._arguments)
        return self.bridge

    def reload(self, *forwards: dict[str, object], text: str = "") -> str:
        """Write a config, let it be read, and return what the log says of it."""
        if sys.platform == "win32":
            raise NotImplementedError
        self.write(*forwards, text=text)
        before = len(told(self.bridge))
        self.bridge.signal(signal.SIGHUP)
        return self.bridge.expect(lambda _: told(self.bridge)[before:], "the outcome of a reload")[0]


def told(bridge: Program) -> list[str]:
    """Return what the log says of reloads."""
    log = [json.loads(line) for line in list(bridge.lines)]
    return [
        entry.get("change") or "; ".join(entry["faults"])
        for entry in log
        if entry["event"] in ("reloaded", "reload failed, nothing has changed")
    ]


def is_open(port: int) -> bool:
    """Say whether anything listens."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def forward(name: str, port: int, service: Service, **more: object) -> dict[str, object]:
    """Return a forward as a config has it."""
    return {"name": name, "listen": f"tcp://127.0.0.1:{port}", "connect": service.endpoint, **more}


@pytest.fixture
def changing(place: Place) -> Changing:
    """Give a bridge whose config changes."""
    return Changing(place)


def test_what_did_not_change_lives_on(changing: Changing, service: StartService) -> None:
    """An unchanged forward keeps its listener and its connections, while others come and go."""
    one, other, echoing = free_port(), free_port(), service(echo)
    changing.start(forward("one", one, echoing))
    with dial(one) as client:
        assert talk(client) == b"hello"
        assert (
            changing.reload(forward("one", one, echoing), forward("other", other, echoing)) == "added: other"
        )
        with dial(other) as second:
            assert talk(second) == b"hello"
            assert changing.reload(forward("one", one, echoing)) == "removed: other"
            wait_until(lambda: not is_open(other), "the removed forward stops listening")
            assert talk(second) == b"hello"  # it drains
        assert talk(client) == b"hello"
    assert changing.reload(forward("one", one, echoing)) == "no change"


def test_a_changed_upstream_is_for_new_connections(changing: Changing, service: StartService) -> None:
    """Open connections keep their upstream; those that come after the reload have the new one."""
    port, echoing = free_port(), service(echo)
    shouting = service(lambda sock: sock.sendall(sock.recv(100).upper()))
    changing.start(forward("it", port, echoing))
    with dial(port) as before:
        assert talk(before) == b"hello"
        assert changing.reload(forward("it", port, shouting)) == "changed: it"
        with dial(port) as after:
            assert talk(after) == b"HELLO"
        assert talk(before) == b"hello"


def test_a_changed_limit_counts_what_is_open(changing: Changing, service: StartService) -> None:
    """Lowering max_connections harms nobody that is in, and lets nobody in above it."""
    port, echoing = free_port(), service(echo)
    changing.start(forward("it", port, echoing))
    with dial(port) as first, dial(port) as second:
        assert talk(first) == talk(second) == b"hello"
        changing.reload(forward("it", port, echoing, max_connections=2, when_full="refuse"))
        assert dial_is_reset(port)
        assert talk(first) == talk(second) == b"hello"
    changing.bridge.expect_records(3)
    with dial(port) as third:
        assert talk(third) == b"hello"


def test_a_listener_that_moves_is_bound_before_the_old_is_left(
    changing: Changing, service: StartService
) -> None:
    """After a move the new address answers, the old does not, and what came by the old lives on."""
    old, new, echoing = free_port(), free_port(), service(echo)
    changing.start(forward("it", old, echoing))
    with dial(old) as client:
        assert talk(client) == b"hello"
        assert changing.reload(forward("it", new, echoing)) == "changed: it"
        with dial(new) as moved:
            assert talk(moved) == b"hello"
        wait_until(lambda: not is_open(old), "the old address is left")
        assert talk(client) == b"hello"


def test_a_forward_with_another_name_takes_over_the_listener(
    changing: Changing, service: StartService
) -> None:
    """Renaming a forward closes no listener."""
    port, echoing = free_port(), service(echo)
    changing.start(forward("it", port, echoing))
    assert changing.reload(forward("she", port, echoing)) == "added: she; removed: it"
    with dial(port) as client:
        assert talk(client) == b"hello"
    assert changing.bridge.expect_records(1)[0]["forward"] == "she"


def test_a_bad_file_changes_nothing(changing: Changing, service: StartService) -> None:
    """A faulty config, and one whose listener cannot be bound, say why, and all goes on as before."""
    port, echoing = free_port(), service(echo)
    changing.start(forward("it", port, echoing))
    assert "max_conections: unknown key; did you mean max_connections?" in changing.reload(
        forward("it", port, echoing, max_conections=1)
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = forward("other", taken.getsockname()[1], echoing)
        assert "the address is in use" in changing.reload(forward("she", port, echoing), other)
    with dial(port) as client:
        assert talk(client) == b"hello"
    assert changing.bridge.expect_records(1)[0]["forward"] == "it"


def test_what_takes_a_restart_says_so(changing: Changing, service: StartService) -> None:
    """A change that a reload cannot make is refused as a whole."""
    port, echoing = free_port(), service(echo)
    changing.start(forward("it", port, echoing))
    text = '[emulator]\ndir = "vm"\n'
    assert (
        changing.reload(forward("it", port, echoing), text=text)
        == "[emulator] has changed; that takes a restart"
    )


def test_reloads_under_load_lose_nothing(changing: Changing, service: StartService) -> None:
    """While the config changes again and again, no connection of a forward that stays is refused or cut."""
    port, other, echoing = free_port(), free_port(), service(echo)
    changing.start(forward("it", port, echoing))
    failures: list[str] = []
    done = threading.Event()
    counts = [0, 0, 0]

    def load(index: int) -> None:
        try:
            with dial(port) as lasting:
                while not done.is_set():
                    with dial(port) as short:
                        assert talk(short) == b"hello"
                    assert talk(lasting, b"still here") == b"still here"
                    counts[index] += 1
        except (OSError, AssertionError) as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=load, args=[index]) for index in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        its = forward("it" if turn % 3 else "renamed", port, echoing, max_connections=100 + turn)
        changing.reload(its, *([forward("other", other, echoing)] if turn % 2 else []))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert min(counts) > 1


def test_a_reload_comes_too_late_once_it_ends(changing: Changing, service: StartService) -> None:
    """While it drains, a reload is refused, and what it bound is let go."""
    port, other, echoing = free_port(), free_port(), service(echo)
    bridge = changing.start(forward("it", port, echoing))
    with dial(port) as client:
        assert talk(client) == b"hello"
        bridge.signal()
        bridge.expect_line("draining")
        wait_until(lambda: not is_open(port), "the listener closes")
        assert (
            changing.reload(forward("it", port, echoing), forward("other", other, echoing))
            == "hvbridge is ending"
        )
        assert not is_open(other)
        assert talk(client) == b"hello"
    assert bridge.wait() == 0


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="the extra watch is not installed")
def test_a_watched_file_is_read_again_when_it_changes(place: Place, service: StartService) -> None:
    """`run --watch` takes in a config that was replaced, without any signal."""
    changing, echoing, one, other = Changing(place, "--watch"), service(echo), free_port(), free_port()
    bridge = changing.start(forward("one", one, echoing))
    changing.write(forward("one", one, echoing), forward("other", other, echoing))
    bridge.expect(lambda _: told(bridge), "the reload")
    assert told(bridge) == ["added: other"]
    with dial(other) as client:
        assert talk(client) == b"hello"


def test_it_ends_when_nobody_is_connected(place: Place, service: StartService) -> None:
    """With --exit-idle it ends by itself, in good order, but not under an open connection."""
    echoing = service(echo)
    config = place.config(
        {"name": "it", "listen": "tcp://127.0.0.1:0", "connect": echoing.endpoint}, partition=None
    )
    bridge = place.bridge_of(config, "--exit-idle", "2s")
    with bridge.dial("it") as client:
        assert talk(client) == b"hello"
        with pytest.raises(TimeoutError):
            client.settimeout(3)
            client.recv(1)
        assert bridge.process.poll() is None
    assert bridge.wait() == 0


def test_a_watch_without_its_package_is_one_sentence(place: Place, service: StartService) -> None:
    """Where watchfiles is missing, --watch says what to install."""
    if find_spec("watchfiles") is not None:
        pytest.skip("the extra watch is installed")
    config = place.config(forward("it", 0, service(echo)), partition=None)
    program = place.program(*MODULE, "run", config, "--watch")
    assert program.wait() == 2
    assert "pip install 'hvbridge[watch]'" in program.stderr
