"""`services` as a process, beside a bridge that needs it."""

import socket
from collections.abc import Callable

from .support import VM, Bridge, Place, Service, echo, hvbridge, is_reset, talk


def test_a_denied_dial_works_once_its_service_is_registered(
    place: Place, service: Callable[[Callable[[socket.socket], None]], Service]
) -> None:
    """Where registration is enforced a dial is refused; after `register --from` the same bridge reaches the VM."""
    place.bridge(
        {"name": "web", "listen": "hyperv://parent/80", "connect": service(echo).endpoint}, partition=VM
    )
    config = place.config({"name": "web", "listen": "127.0.0.1:0", "connect": f"hyperv://{VM}/80"})
    config.write_text(config.read_text().replace("[emulator]", "[emulator]\nenforce_registration = true"))
    bridge = Bridge(config)
    try:
        bridge.expect_ready()
        with bridge.dial("web") as client:
            assert is_reset(client)
        (record,) = bridge.expect_records(1)
        assert "the service is not registered" in record["detail"]
        registered = hvbridge("services", "register", "--from", config)
        assert registered.stdout.split()[0] == b"registered"
        with bridge.dial("web") as client:
            assert talk(client) == b"hello"
    finally:
        bridge.kill()
