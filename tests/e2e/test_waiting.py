"""Waiting for a VM and starting it, by name, through whole bridges over the emulator."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from hvbridge.address.endpoint import TcpEndpoint, parse_endpoint
from hvbridge.app.build import build_network
from hvbridge.app.run import run as run_config
from hvbridge.cli.loading import load
from hvbridge.hyperv.vms import VmState
from hvbridge.proxy.events import ConnectionClosed, Event, Ready, UpstreamChanged, VmChanged
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.server import Shutdown
from hvbridge.transport.emulator.vms import EmulatorDirectory

VM = uuid.UUID("5c0ffee0-0000-4000-8000-000000000001")
GUEST = f"""
[emulator]
dir = "vm"
partition = "{VM}"

[[forward]]
name = "echo"
listen = "hyperv://parent/7"
connect = "tcp://127.0.0.1:{{port}}"
"""
HOST = """
[emulator]
dir = "vm"

[[forward]]
name = "echo"
listen = "tcp://127.0.0.1:0"
connect = "hyperv://dev-box/7"
dial_timeout = "200ms"
wait = "20s"
"""


class Bridge:
    """A running bridge, and what happened in it."""

    def __init__(self) -> None:
        self.records: list[ConnectionRecord] = []
        self.changes: list[str] = []
        self.entrances: list[TcpEndpoint] = []
        self.is_ready = trio.Event()

    def on_event(self, event: Event) -> None:
        match event:
            case Ready(forwards=forwards):
                endpoints = [parse_endpoint(forward.listen[0]) for forward in forwards]
                self.entrances = [end for end in endpoints if isinstance(end, TcpEndpoint)]
                self.is_ready.set()
            case ConnectionClosed(record=record):
                self.records.append(record)
            case UpstreamChanged(error=error):
                self.changes.append("up" if error is None else "down")
            case VmChanged(vm=vm, change=change):
                self.changes.append(f"{vm} {change}")

    async def run(self, path: Path, text: str) -> None:
        path.write_text(text)
        config = load(path)
        await run_config(config, build_network(config.emulator, {}), Shutdown(grace=0), self.on_event)


@pytest.fixture
async def echo(nursery: trio.Nursery) -> int:
    """A TCP service inside the VM that sends back what it receives; its port."""

    async def answer(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.send_eof()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def ask(host: Bridge) -> bytes:
    """Send a word through the host's bridge, and return what comes back."""
    async with await trio.open_tcp_stream(host.entrances[0].host, host.entrances[0].port) as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


async def test_a_client_is_held_while_the_vm_boots(
    tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery, echo: int
) -> None:
    """A client that comes before the VM runs is served once the service in it answers, and down is told once."""
    directory = tmp_path_factory.mktemp("w")
    vms = EmulatorDirectory(directory / "vm")
    vms.add("dev-box", VM, VmState.OFF)
    host, guest = Bridge(), Bridge()
    with trio.fail_after(15):
        nursery.start_soon(host.run, directory / "host.toml", HOST)
        await host.is_ready.wait()
        async with trio.open_nursery() as clients:
            answers: list[bytes] = []

            async def client() -> None:
                answers.append(await ask(host))

            for _ in range(3):
                clients.start_soon(client)
            while "down" not in host.changes:
                await trio.sleep(0.01)
            await vms.start(VM)
            nursery.start_soon(guest.run, directory / "guest.toml", GUEST.format(port=echo))
        assert answers == [b"hello"] * 3
        assert host.changes == ["down", "up"]
    nursery.cancel_scope.cancel()


@dataclass
class Machine:
    """A host with a bridge, and a VM that is saved and, once it is resumed, has a bridge in it."""

    vms: EmulatorDirectory
    host: Bridge

    async def state(self) -> VmState:
        """What the VM is doing."""
        return (await self.vms.vms())[0].state

    async def until(self, change: str) -> None:
        """Wait until a change has been told."""
        while change not in self.host.changes:
            await trio.sleep(0.01)


@pytest.fixture
def machine(
    tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery, echo: int
) -> Callable[[str], Awaitable[Machine]]:
    async def start(host_config: str) -> Machine:
        directory = tmp_path_factory.mktemp("s")
        made = Machine(EmulatorDirectory(directory / "vm"), Bridge())
        made.vms.add("dev-box", VM, VmState.SAVED)

        async def boot() -> None:
            while await made.state() is not VmState.RUNNING:
                await trio.sleep(0.01)
            await Bridge().run(directory / "guest.toml", GUEST.format(port=echo))

        nursery.start_soon(boot)
        nursery.start_soon(made.host.run, directory / "host.toml", host_config)
        await made.host.is_ready.wait()
        return made

    return start


async def test_the_first_connection_starts_the_vm_and_its_last_lets_it_be_saved(
    machine: Callable[[str], Awaitable[Machine]], nursery: trio.Nursery
) -> None:
    """A saved VM is resumed for a client, which is served by what boots in it, and saved again when idle."""
    with trio.fail_after(15):
        made = await machine(HOST + 'start = true\nidle_save = "100ms"\n')
        assert await ask(made.host) == b"hello"
        await made.until("dev-box saved")
    assert made.host.changes == ["down", "dev-box started", "up", "dev-box saved"]
    assert await made.state() is VmState.SAVED
    nursery.cancel_scope.cancel()


async def test_a_vm_with_connections_is_not_saved(
    machine: Callable[[str], Awaitable[Machine]], nursery: trio.Nursery
) -> None:
    """A connection of another forward, which writes the VM by its id and has no start, keeps the VM running."""
    other = f'[[forward]]\nname = "other"\nlisten = "tcp://127.0.0.1:0"\nconnect = "hyperv://{VM}/7"\n'
    with trio.fail_after(15):
        made = await machine(f'{HOST}start = true\nidle_save = "200ms"\n{other}')
        assert await ask(made.host) == b"hello"
        entrance = made.host.entrances[1]
        async with await trio.open_tcp_stream(entrance.host, entrance.port) as lasting:
            for _ in range(3):
                await lasting.send_all(b"still here")
                assert await lasting.receive_some() == b"still here"
                await trio.sleep(0.3)
            assert await made.state() is VmState.RUNNING
        await made.until("dev-box saved")
    nursery.cancel_scope.cancel()
