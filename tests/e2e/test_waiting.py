"""Waiting for a VM and starting it, by name, through whole bridges over the emulator."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from hvbridge import bridge, compose
from hvbridge.commands.check import load
from hvbridge.commands.report import LogReporter
from hvbridge.endpoint import TcpEndpoint, parse_endpoint
from hvbridge.forward import Record
from hvbridge.transport.emulator_vms import EmulatorDirectory
from hvbridge.transport.errors import DialError
from hvbridge.vms import VmState

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


class Bridge(LogReporter):
    """A running bridge, and what it said."""

    def __init__(self) -> None:
        super().__init__(None)
        self.records: list[Record] = []
        self.changes: list[str] = []
        self.entrance: TcpEndpoint | None = None
        self.is_ready = trio.Event()

    def ready(self, forwards: Sequence[compose.Bound]) -> None:
        endpoint = parse_endpoint(forwards[0].listen[0])
        self.entrance = endpoint if isinstance(endpoint, TcpEndpoint) else None
        self.is_ready.set()

    def closed(self, record: Record) -> None:
        self.records.append(record)

    def upstream_changed(self, forward: str, error: DialError | None) -> None:
        self.changes.append("up" if error is None else "down")

    def reloaded(self, change: str) -> None: ...
    def reload_failed(self, faults: object) -> None: ...
    def vm_changed(self, vm: str, what: str) -> None:
        self.changes.append(f"{vm} {what}")

    async def run(self, path: Path, text: str) -> None:
        path.write_text(text)
        config = load(path)
        await compose.run(config, compose.network_of(config.emulator, {}), bridge.Shutdown(grace=0), self)


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
    assert host.entrance is not None
    async with await trio.open_tcp_stream(host.entrance.host, host.entrance.port) as stream:
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


async def test_the_first_connection_starts_the_vm_and_its_last_lets_it_be_saved(
    tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery, echo: int
) -> None:
    """A saved VM is resumed for a client, which is served by what boots in it, and saved again when idle."""
    directory = tmp_path_factory.mktemp("s")
    vms = EmulatorDirectory(directory / "vm")
    vms.add("dev-box", VM, VmState.SAVED)
    host, guest = Bridge(), Bridge()

    async def boot() -> None:
        while (await vms.vms())[0].state is not VmState.RUNNING:
            await trio.sleep(0.01)
        await guest.run(directory / "guest.toml", GUEST.format(port=echo))

    with trio.fail_after(15):
        nursery.start_soon(boot)
        nursery.start_soon(host.run, directory / "host.toml", HOST + 'start = true\nidle_save = "100ms"\n')
        await host.is_ready.wait()
        assert await ask(host) == b"hello"
        while "dev-box saved" not in host.changes:
            await trio.sleep(0.01)
    assert host.changes == ["down", "dev-box started", "up", "dev-box saved"]
    assert (await vms.vms())[0].state is VmState.SAVED
    nursery.cancel_scope.cancel()
