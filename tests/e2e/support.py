"""What these tests share: hvbridge in a process, services for it to reach, and waits that have a deadline.

Owns: every process and thread that a test starts, and their end. Refuses: importing hvbridge.
"""

import json
import os
import random
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
MODULE = (sys.executable, "-m", "hvbridge")
VM = "6a0c8e2e-0000-4000-8000-0000000000e2"
PATIENCE = 100.0
"""Seconds after which a test takes something for broken that should long have happened, on a busy machine."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or sets limits that Linux has")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix sockets on Windows")

RUN: tuple[str, ...] = (*MODULE, "run")
STOP: int = signal.SIGTERM
if sys.platform == "win32":
    RUN = (sys.executable, str(ROOT / "tests" / "windows" / "breakable.py"), *RUN)
    STOP = signal.CTRL_BREAK_EVENT


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, without what would change hvbridge's ways, and with ``more``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HVBRIDGE_")}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"} | more


def run(
    *command: object, send: bytes = b"", environ: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, within `PATIENCE`."""
    return subprocess.run(
        [str(word) for word in command],
        input=send,
        capture_output=True,
        env=environment() if environ is None else environ,
        cwd=cwd,
        timeout=PATIENCE,
        check=False,
    )


def hvbridge(
    *arguments: object, send: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command of hvbridge to its end; no command may ever show a traceback."""
    done = run(*MODULE, *arguments, send=send, environ=environ)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Poll until ``holds()``, or fail after `PATIENCE` with ``what`` did not happen."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.02)


class Program:
    """A long-lived hvbridge command, whose standard error is taken in line by line. `kill` ends it."""

    def __init__(self, *command: object, environ: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() if environ is None else environ,
            cwd=ROOT,
            # So that Ctrl-Break reaches this process alone; no other system knows the flag.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def stderr(self) -> str:
        """Return what it has written so far."""
        with self._news:
            return "\n".join(self.lines)

    def expect(self, found: Callable[[list[str]], T | None], what: str) -> T:
        """Wait until ``found(lines)`` is true, and return that."""
        with self._news:
            self._news.wait_for(lambda: found(self.lines) or not self._reader.is_alive(), PATIENCE)
            result = found(self.lines)
        assert result, f"in vain: {what}\n{self.stderr}"
        return result

    def expect_line(self, text: str) -> str:
        """Wait for a line that holds ``text``, and return it."""
        return self.expect(lambda lines: next((line for line in lines if text in line), None), text)

    def signal(self, number: int = STOP) -> None:
        """Send a signal: by default what asks it to drain."""
        try:
            self.process.send_signal(number)
        except OSError:
            if sys.platform != "win32":
                raise
            # It travels through a console, and Wine has none; breakable.py raises it for a byte.
            assert self.process.stdin is not None
            self.process.stdin.write(b"!")
            self.process.stdin.flush()

    def wait(self) -> int:
        """Wait for its end, and return its exit code; its standard output must have stayed empty."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == b""
        return code

    def stop(self) -> int:
        """Ask it to drain, and return its exit code."""
        self.signal()
        return self.wait()

    def kill(self) -> None:
        """End it by force if it still runs; whatever it has gone through, it must not have shown a traceback."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        assert "Traceback" not in self.stderr, self.stderr

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.decode().rstrip("\r\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Bridge(Program):
    """`hvbridge run CONFIG`, with its log as JSON."""

    def __init__(self, config: Path, *arguments: object, before: Sequence[str] = ()) -> None:
        super().__init__(*before, *RUN, config, "--log-format", "json", *arguments)
        self._addresses: dict[str, str] = {}

    def expect_ready(self) -> None:
        """Wait until it says ready, and learn where it listens."""
        ready = json.loads(self.expect_line('"event": "ready"'))
        self._addresses = {forward["forward"]: forward["listen"][0] for forward in ready["forwards"]}

    def port(self, forward: str) -> int:
        """Return the TCP port on which ``forward`` listens."""
        return int(self._addresses[forward].rpartition(":")[2])

    def dial(self, forward: str) -> socket.socket:
        """Connect to ``forward``, as a client of it would."""
        return dial(self.port(forward))

    def records(self) -> list[dict[str, Any]]:
        """Return the closing records so far."""
        with self._news:
            log = [json.loads(line) for line in self.lines]
        return [entry for entry in log if entry["event"] == "connection closed"]

    def record_of(self, client: tuple[Any, ...]) -> dict[str, Any]:
        """Wait for the closing record of the connection whose client's address is ``client``."""
        peer = f"{client[0]}:{client[1]}"

        def closed(_: list[str]) -> dict[str, Any] | None:
            return next((record for record in self.records() if record["peer"] == peer), None)

        return self.expect(closed, f"the closing record of {peer}")

    def expect_records(self, count: int) -> list[dict[str, Any]]:
        """Wait until ``count`` connections have closed, and return their records."""
        return self.expect(
            lambda _: records if len(records := self.records()) >= count else None, f"{count} records"
        )

    def resident(self) -> int:
        """Return the bytes of memory that it holds (Linux)."""
        if sys.platform == "win32":
            raise NotImplementedError
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Place:
    """A directory with an emulator in it, and the bridges that run there until it closes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._programs: list[Program] = []
        self._names = iter(f"config-{number}.toml" for number in range(1, 1000))

    def config(
        self, *forwards: Mapping[str, object], partition: str | None = "host", name: str | None = None
    ) -> Path:
        """Write a config; without a partition it has no emulator."""
        lines = []
        if partition is not None:
            lines += ["[emulator]", 'dir = "vm"', f'partition = "{partition}"']
        for forward in forwards:
            lines += ["", "[[forward]]", *(f"{key} = {json.dumps(value)}" for key, value in forward.items())]
        path = self.directory / (name or next(self._names))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def bridge(
        self,
        *forwards: Mapping[str, object],
        partition: str | None = "host",
        arguments: Sequence[object] = (),
        before: Sequence[str] = (),
    ) -> Bridge:
        """Start a bridge with these forwards, and wait until it is ready."""
        return self.bridge_of(self.config(*forwards, partition=partition), *arguments, before=before)

    def bridge_of(self, config: Path, *arguments: object, before: Sequence[str] = ()) -> Bridge:
        """Start a bridge with this config, and wait until it is ready."""
        bridge = Bridge(config, *arguments, before=before)
        self._programs.append(bridge)
        bridge.expect_ready()
        return bridge

    def program(self, *command: object, environ: Mapping[str, str] | None = None) -> Program:
        """Start another long-lived command."""
        program = Program(*command, environ=environ)
        self._programs.append(program)
        return program

    def close(self) -> None:
        """End every bridge."""
        for program in self._programs:
            program.kill()


class Service:
    """A TCP service; ``handle`` is called with each connection, in a thread, and the connection closed after."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(PATIENCE)
                with suppress(OSError):  # the other end's failures are what some tests are about
                    handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            request_queue_size = 512
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Connect to a port of this machine; every wait on the socket ends after `PATIENCE`."""
    return socket.create_connection((host, port), timeout=PATIENCE)


def echo(sock: socket.socket) -> None:
    """Send back what comes, to its end."""
    while data := sock.recv(65536):
        sock.sendall(data)


def say_nothing(sock: socket.socket) -> None:
    """Take a first byte, and close."""
    sock.recv(1)


def receive(sock: socket.socket, count: int) -> bytes:
    """Receive ``count`` bytes, or what comes before the end."""
    data = bytearray()
    while len(data) < count and (chunk := sock.recv(min(65536, count - len(data)))):
        data += chunk
    return bytes(data)


def receive_all(sock: socket.socket) -> bytes:
    """Receive to the end."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def talk(sock: socket.socket, text: bytes = b"hello") -> bytes:
    """Send ``text`` and receive as many bytes."""
    sock.sendall(text)
    return receive(sock, len(text))


def is_reset(sock: socket.socket) -> bool:
    """Wait for the end of ``sock``; say whether it was a reset and not a clean end."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    return False


def dial_is_reset(port: int) -> bool:
    """Connect to ``port`` and wait for the end; say whether it was a reset, which may come before all else."""
    try:
        with dial(port) as sock:
            return is_reset(sock)
    except ConnectionResetError:
        return True


def answers(port: int) -> bool:
    """Say whether an echo is heard through ``port``."""
    try:
        with dial(port) as sock:
            return talk(sock) == b"hello"
    except ConnectionError:
        return False


def reset(sock: socket.socket) -> None:
    """Close ``sock`` so that its peer sees a reset."""
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    )
    sock.close()


def random_bytes(count: int) -> bytes:
    """Return ``count`` bytes that do not compress, the same in each run."""
    return random.Random(count).randbytes(count)


def processes_end(*processes: subprocess.Popen[Any]) -> Iterator[int]:
    """Wait for the end of each process, and yield its exit code; end by force what does not end."""
    try:
        for process in processes:
            yield process.wait(PATIENCE)
    finally:
        for process in processes:
            process.kill()
