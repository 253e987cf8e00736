"""`services` as a process, beside a bridge that needs it."""

import json
import socket
from collections.abc import Callable

from .support import VM, Bridge, Place, Service, echo, environment, hvbridge, is_reset, talk

GUID = "b1d00d3d-3c6e-4f2b-9a54-d5f3a0c7e81b"


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


def test_a_registered_name_is_the_service(
    place: Place, service: Callable[[Callable[[socket.socket], None]], Service]
) -> None:
    """What was registered by a name is dialled and listened on by it, in a config and by `connect`."""
    environ = environment(HVBRIDGE_EMULATOR=str(place.directory / "vm"))
    assert hvbridge("services", "register", "my app", "--id", GUID, environ=environ).returncode == 0
    back = {"name": "back", "listen": "tcp://127.0.0.1:0", "connect": f"hyperv://parent/{GUID}"}
    app = {"name": "app", "listen": f"hyperv://parent/{GUID}", "connect": service(echo).endpoint}
    guest = place.bridge(app, back, partition=VM)
    host = place.bridge(
        {"name": "app", "listen": "tcp://127.0.0.1:0", "connect": f"hyperv://{VM}/my app"},
        {"name": "back", "listen": "hyperv://children/My App", "connect": app["connect"]},
    )
    for bridge, forward in ((host, "app"), (guest, "back")):
        with bridge.dial(forward) as client:
            assert talk(client) == b"hello"
    ready = json.loads(host.expect_line('"event": "ready"'))
    assert [(each["listen"][0], each["connect"]) for each in ready["forwards"]][1:] == [
        ("hyperv://children/my app", app["connect"])
    ]
    assert ready["forwards"][0]["connect"] == f"hyperv://{VM}/my app"
    done = hvbridge("connect", f"hyperv://{VM}/my app", send=b"hello", environ=environ)
    assert (done.returncode, done.stdout) == (0, b"hello")


def test_an_unknown_name_is_told(place: Place) -> None:
    """A name that nobody has registered ends `connect` and `check` with what to do, in a VM with who has names."""
    environ = environment(HVBRIDGE_EMULATOR=str(place.directory / "vm"))
    done = hvbridge("connect", f"hyperv://{VM}/app", environ=environ)
    assert done.returncode == 2
    assert (
        b'"app" is not a service; write a GUID, a vsock port, ssh or xrdp, or register it first'
        in done.stderr
    )
    done = hvbridge("connect", "hyperv://parent/app", environ=environ | {"HVBRIDGE_PARTITION": VM})
    assert done.returncode == 2
    assert b"other names exist only on a Hyper-V host" in done.stderr
    config = place.config({"name": "app", "listen": "127.0.0.1:0", "connect": f"hyperv://{VM}/app"})
    done = hvbridge("check", config)
    assert done.returncode == 2
    assert b'app": connect: "app" is not a service; ' in done.stderr
