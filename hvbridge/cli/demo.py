"""`hvbridge demo`: an emulated VM, its services, a guest bridge and a host bridge in one process.

The bridges use the same code and the same config format as `hvbridge run`.
"""

import hashlib
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import trio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.syntax import Syntax

from hvbridge.address.endpoint import TcpEndpoint, parse_endpoint
from hvbridge.app.build import build_network
from hvbridge.app.run import run as run_config
from hvbridge.cli import log
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK
from hvbridge.cli.loading import load
from hvbridge.cli.log_reporter import LogReporter, show_ready
from hvbridge.proxy.events import BoundForward, Event, Ready
from hvbridge.proxy.server import Shutdown
from hvbridge.transport.emulator.vms import EmulatorDirectory

_VM = "de300000-0000-4000-8000-00000000c0de"
_MIB = 1024 * 1024
BULK = 256 * _MIB
_PAGE = b"""<!doctype html>
<title>hvbridge demo</title>
<h1>This page came out of a VM that has no network.</h1>
<p>A TCP connection on the host, a Hyper-V socket into the VM, a TCP service inside it.</p>
"""

_GUEST = """\
# guest.toml: runs inside the VM
[emulator]
dir = "vm"
partition = "{vm}"

[[forward]]
name = "web"
listen = "hyperv://parent/80"
connect = "tcp://127.0.0.1:{web}"

[[forward]]
name = "echo"
listen = "hyperv://parent/7"
connect = "tcp://127.0.0.1:{echo}"
"""
_HOST = """\
# host.toml: runs on the Hyper-V host
[emulator]
dir = "vm"

[[forward]]
name = "web"
listen = "tcp://127.0.0.1:0"      # 0: the system picks a port
connect = "hyperv://demo-vm/80"

[[forward]]
name = "echo"
listen = "tcp://127.0.0.1:0"
connect = "hyperv://demo-vm/7"
"""


def demo(*, once: bool) -> int:
    """Show the whole way, and stay up until Ctrl-C or the end of the input; return the exit code."""
    writer = log.configure("text", "warning")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="hvbridge-demo-") as directory:
        try:
            return trio.run(_demo, console, Path(directory), once)
        finally:
            writer.close(1.0)


async def _demo(console: Console, directory: Path, once: bool) -> int:
    EmulatorDirectory(directory / "vm").add("demo-vm", UUID(_VM))
    proved = True
    # As in `run`: a KeyboardInterrupt could interrupt a connection's accounting.
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_with, interrupts, nursery.cancel_scope, console)
            proved = await _show(nursery, console, directory, once)
            nursery.cancel_scope.cancel()
    return EXIT_OK if proved else EXIT_FAILURE


async def _end_with(interrupts: AsyncIterator[int], everything: trio.CancelScope, console: Console) -> None:
    async for _ in interrupts:
        console.print("\nThe demo has ended.")
        everything.cancel()


async def _show(nursery: trio.Nursery, console: Console, directory: Path, once: bool) -> bool:
    """Run everything in ``nursery``; return whether all data arrived."""
    services = {
        "web": await nursery.start(_serve, _answer_http),
        "echo": await nursery.start(_serve, _echo),
    }
    configs = {
        "guest.toml": _GUEST.format(vm=_VM, **services),
        "host.toml": _HOST,
    }
    for name, text in configs.items():
        (directory / name).write_text(text)
        console.print(Syntax(text, "toml", background_color="default"))
        bound = await nursery.start(_run_bridge, directory / name)
        show_ready(bound, console)
        console.print()
    web, echo = (_tcp(forward) for forward in bound)
    proved = await _fetch_page(console, web) and await _move_bulk(console, echo)
    if proved and not once:
        console.print(
            f"\nThe demo keeps running: try [bold]curl http://{web.host}:{web.port}/[/] in another terminal. "
            "Press Ctrl-C to stop."
        )
        await trio.to_thread.run_sync(_read_to_end, abandon_on_cancel=True)
    return proved


async def _run_bridge(
    path: Path, task_status: trio.TaskStatus[Sequence[BoundForward]] = trio.TASK_STATUS_IGNORED
) -> None:
    reporter = LogReporter(None)

    def on_event(event: Event) -> None:
        if isinstance(event, Ready):
            task_status.started(event.forwards)
        else:
            reporter.on_event(event)

    config = load(path)
    network = build_network(config.emulator, {})
    shutdown = Shutdown(grace=0)
    await run_config(config, network, shutdown, on_event)


async def _fetch_page(console: Console, web: TcpEndpoint) -> bool:
    stream = await trio.open_tcp_stream(web.host, web.port)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.0\r\nHost: vm\r\n\r\n")
        page = b"".join([chunk async for chunk in stream])
    title = page.partition(b"<h1>")[2].partition(b"</h1>")[0].decode()
    console.print(
        f"[bold]A page:[/] http://{web.host}:{web.port}/ says “{title}”" if title else "no page was received"
    )
    return bool(title)


async def _move_bulk(console: Console, echo: TcpEndpoint) -> bool:
    """Send bulk data to the echo service, receive it back at the same time, and compare checksums."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    block = secrets.token_bytes(_MIB)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    async with await trio.open_tcp_stream(echo.host, echo.port) as stream:

        async def send() -> None:
            for _ in range(BULK // _MIB):
                sent.update(block)
                await stream.send_all(block)
                progress.advance(up, _MIB)
            await stream.send_eof()

        with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
            up = progress.add_task("into the VM", total=BULK)
            down = progress.add_task("and back", total=BULK)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for chunk in stream:
                    received.update(chunk)
                    progress.advance(down, len(chunk))
            seconds = trio.current_time() - began
    same = sent.digest() == received.digest()
    console.print(
        f"[bold]{BULK // _MIB} MiB[/] each way in {seconds:.1f} s, "
        f"{2 * BULK / _MIB / seconds:.0f} MiB/s in total, "
        f"sha256 {received.hexdigest()[:16]}… "
        + ("[green]identical on both ends[/]" if same else "[red]differs from the data sent[/]")
    )
    return same


async def _serve(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a small TCP service on a port that the system picks, and report that port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(handler, listeners)


async def _answer_http(stream: trio.SocketStream) -> None:
    request = b""
    with suppress(trio.BrokenResourceError):
        while b"\r\n\r\n" not in request and len(request) < 65536:
            chunk = await stream.receive_some()
            if not chunk:
                return
            request += chunk
        head = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n"
        await stream.send_all(head.format(len(_PAGE)).encode() + _PAGE)
        await stream.send_eof()


async def _echo(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.send_eof()


def _tcp(forward: BoundForward) -> TcpEndpoint:
    endpoint = parse_endpoint(forward.listen[0])
    assert isinstance(endpoint, TcpEndpoint)
    return endpoint


def _read_to_end() -> None:
    while os.read(0, 4096):
        pass
