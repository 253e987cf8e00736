"""A running bridge, asked by `hvbridge status` and `reload`; and what it logs of a peer that floods it."""

import json
from pathlib import Path

from .support import Bridge, Place, dial_is_reset, hvbridge, posix_only

DEAD = "tcp://127.0.0.1:1"


def bridge_with_admin(place: Place) -> tuple[Bridge, Path]:
    """Start a bridge with an upstream on which nobody listens, and with an admin endpoint; return its config, too."""
    config = place.config({"name": "dead", "listen": "tcp://127.0.0.1:0", "connect": DEAD}, partition=None)
    admin = f'[admin]\nlisten = "unix://{place.directory}/admin.sock"\n'
    config.write_text(admin + config.read_text(), encoding="utf-8")
    return place.bridge_of(config), config


@posix_only
def test_a_running_bridge_is_asked(place: Place) -> None:
    """`status` counts what has happened, and `reload` makes the change that was written into the config."""
    bridge, config = bridge_with_admin(place)
    assert dial_is_reset(bridge.port("dead"))
    bridge.expect_records(1)
    status = hvbridge("status", config, "--json")
    assert status.returncode == 0, status.stderr
    told = json.loads(status.stdout)
    (forward,) = told["forwards"]
    assert told["ready"] is True
    assert (forward["name"], forward["accepted"], forward["dial_failed"]) == ("dead", 1, 1)
    assert (forward["upstream"], forward["connections"]) == ("down", 0)
    config.write_text(config.read_text() + "max_connections = 7\n", encoding="utf-8")
    done = hvbridge("reload", config)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"dead" in done.stdout
    assert b"0 of 7 " in hvbridge("status", config).stdout
    config.write_text(config.read_text() + "max_conections = 8\n", encoding="utf-8")
    refused = hvbridge("reload", "--admin", f"unix://{place.directory}/admin.sock")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"did you mean max_connections?" in refused.stderr
    assert bridge.stop() == 0
    gone = hvbridge("status", "--admin", f"unix://{place.directory}/admin.sock")
    assert (gone.returncode, gone.stdout) == (1, b"")
    assert b"is hvbridge running" in gone.stderr


def test_what_was_counted_of_a_flood_is_told_at_the_end(place: Place) -> None:
    """Of 15 connections in vain 10 have a line, and the count of the others comes before the process ends."""
    bridge = place.bridge({"name": "dead", "listen": "tcp://127.0.0.1:0", "connect": DEAD}, partition=None)
    for _ in range(15):
        dial_is_reset(bridge.port("dead"))
    bridge.expect_records(10)
    assert bridge.stop() == 0
    (told,) = [json.loads(line) for line in bridge.lines if "closings suppressed" in line]
    assert len(bridge.records()) == 10
    assert (told["peer"], told["suppressed"]) == ("127.0.0.1", 5)
    assert told["reasons"] == {"dial failed": 5}
