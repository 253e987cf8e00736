"""The configs that come with hvbridge: each is right on the platform that it is for, and the demo runs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from hvbridge.address.endpoint import Endpoint, HypervEndpoint, TcpEndpoint, parse_endpoint
from hvbridge.app.build import build_network
from hvbridge.app.run import run as run_config
from hvbridge.config import Config, EmulatorSettings, Machine, load_config
from hvbridge.proxy.events import BoundForward, Event, Ready
from hvbridge.proxy.server import Shutdown
from hvbridge.text import Problem
from hvbridge.transport.base import Role
from hvbridge.transport.hyperv.linux_guest import HypervGuestTransport

CONFIGS = Path(__file__).parents[2] / "configs"
Judge = Callable[[Endpoint, Role], Problem | None]


def on_windows(endpoint: Endpoint, role: Role) -> Problem | None:
    """Windows has TCP and Hyper-V sockets, and of these every kind."""
    return (
        None if isinstance(endpoint, TcpEndpoint | HypervEndpoint) else Problem("Windows has no such sockets")
    )


def in_a_linux_guest(endpoint: Endpoint, role: Role) -> Problem | None:
    """A Linux guest has everything, within the bounds of hv_sock."""
    return HypervGuestTransport().fault(endpoint, role) if isinstance(endpoint, HypervEndpoint) else None


def load(name: str, judge: Judge, environ: Mapping[str, str] = {}) -> Config:
    return load_config(CONFIGS / name, environ=environ, machine_of=lambda _: Machine(fault=judge))


@pytest.mark.parametrize(
    ("name", "judge", "environ"),
    [
        ("host-ssh-rdp.toml", on_windows, {}),
        ("guest-windows.toml", on_windows, {}),
        ("guest-linux.toml", in_a_linux_guest, {}),
        ("sidecar.toml", in_a_linux_guest, {"XDG_RUNTIME_DIR": "/run/user/1000"}),
    ],
)
def test_is_right_on_its_platform(name: str, judge: Judge, environ: Mapping[str, str]) -> None:
    """Each config has no fault where it is meant to run."""
    assert load(name, judge, environ).forwards


def test_the_windows_configs_speak_of_one_service() -> None:
    """The host reaches the RDP of the Windows guest under the service that the guest listens on."""
    host = {forward.name: forward for forward in load("host-ssh-rdp.toml", on_windows).forwards}
    guest = {forward.name: forward for forward in load("guest-windows.toml", on_windows).forwards}
    dialled, listened = host["win-box-rdp"].connect, guest["rdp"].listen
    assert isinstance(dialled, HypervEndpoint)
    assert isinstance(listened, HypervEndpoint)
    assert dialled.service == listened.service


def test_demo_needs_no_machine_of_its_own() -> None:
    """The demo config brings the emulator, and is right on the machine as it is."""

    def machine_of(emulator: EmulatorSettings | None) -> Machine:
        assert emulator is not None
        return Machine(fault=build_network(emulator, {}).fault)

    load_config(CONFIGS / "demo.toml", environ={}, machine_of=machine_of)


async def test_demo_carries_a_connection(tmp_path: Path) -> None:
    """The demo config forwards TCP through the emulated Hyper-V socket to the service, and the answer back."""
    service = await trio.open_tcp_listeners(0, host="127.0.0.1")
    text = (CONFIGS / "demo.toml").read_text(encoding="utf-8")
    for written, port in (("127.0.0.1:8080", 0), ("127.0.0.1:8000", service[0].socket.getsockname()[1])):
        assert f'"tcp://{written}"' in text
        text = text.replace(f'"tcp://{written}"', f'"tcp://127.0.0.1:{port}"')
    file = tmp_path / "demo.toml"
    file.write_text(text, encoding="utf-8")
    config = load_config(file, environ={}, machine_of=lambda _: Machine())
    shutdown = Shutdown(grace=0)

    async def answer(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk.upper())
        await stream.send_eof()

    async def run(task_status: trio.TaskStatus[list[BoundForward]]) -> None:
        def on_event(event: Event) -> None:
            if isinstance(event, Ready):
                task_status.started(list(event.forwards))

        network = build_network(config.emulator, {})
        await run_config(config, network, shutdown, on_event)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, service)
            bound = await nursery.start(run)
            entrance = parse_endpoint(bound[0].listen[0])
            assert isinstance(entrance, TcpEndpoint)
            async with await trio.open_tcp_stream(entrance.host, entrance.port) as client:
                await client.send_all(b"there and back")
                await client.send_eof()
                assert b"".join([chunk async for chunk in client]) == b"THERE AND BACK"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.name)
def test_names_its_schema(file: Path) -> None:
    """Editors find the schema by the first line of each config."""
    first, _, _ = file.read_text(encoding="utf-8").partition("\n")
    assert first == "#:schema ./hvbridge.schema.json"
