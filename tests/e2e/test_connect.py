"""`hvbridge connect`: a pipe on each side, as ssh's ProxyCommand has it."""

import hashlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .conftest import Way
from .support import (
    MODULE,
    PATIENCE,
    ROOT,
    VM,
    Service,
    echo,
    environment,
    hvbridge,
    is_reset,
    random_bytes,
    receive_all,
    reset,
)

StartService = Callable[[Callable[[socket.socket], None]], Service]

AWKWARD = bytes(range(256)) + b"\r\n\n\r\x1a\x04\x00\xff" * 3 + b"no newline at the end"


@contextmanager
def connect(endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `hvbridge connect` with pipes."""
    with subprocess.Popen(
        [*MODULE, "connect", endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def through_emulator(way: Way) -> dict[str, str]:
    """Return the environment that leads into the VM of ``way``."""
    return environment(HVBRIDGE_EMULATOR=str(way.place.directory / "vm"))


def test_bytes_pass_as_they_are(way: Way) -> None:
    """Every byte passes, both ways, with no line end, end-of-file sign or zero byte changed."""
    done = hvbridge("connect", way.endpoint(7), send=AWKWARD, environ=through_emulator(way))
    assert (done.returncode, done.stdout, done.stderr) == (0, AWKWARD, b"")


def test_bulk_passes_both_ways(way: Way) -> None:
    """20 MB go into the VM and back whole."""
    bulk = random_bytes(20_000_000)
    done = hvbridge("connect", way.endpoint(7), send=bulk, environ=through_emulator(way))
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(bulk).digest()


def test_end_of_input_is_passed_on(way: Way) -> None:
    """A service that answers only after the end of its input hears of that end, and its answer arrives."""
    done = hvbridge("connect", way.endpoint(9), send=b"abc", environ=through_emulator(way))
    assert (done.returncode, done.stdout.decode()) == (0, hashlib.sha256(b"abc").hexdigest())


def test_receive_after_service_has_ended(service: StartService) -> None:
    """A service that ends first still gets all that is sent after: its end closes standard output alone."""
    got: list[bytes] = []

    def end_first(sock: socket.socket) -> None:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        got.append(receive_all(sock))

    late = random_bytes(1_000_000)
    with connect(service(end_first).endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read() == b"bye"
        process.stdin.write(late)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert got == [late]


def test_ends_when_the_reader_of_its_output_is_gone(service: StartService) -> None:
    """When nobody reads its output any more it ends, says so by its exit code, and the service is told."""
    seen: list[bool] = []

    def talk_on(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        sock.recv(1)
        try:
            while True:
                sock.sendall(bytes(65536))
        except ConnectionError:
            seen.append(True)

    with connect(service(talk_on).endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"hello"
        process.stdout.close()
        process.stdin.write(b"!")
        assert process.wait(PATIENCE) == 1
    assert seen == [True]


def test_reset_is_told_by_the_exit_code(service: StartService) -> None:
    """A service that resets is no clean end: exit code 1, and a sentence. Open standard input is no hindrance."""

    def fail(sock: socket.socket) -> None:
        sock.recv(1)
        reset(sock)

    endpoint = service(fail).endpoint
    with connect(endpoint) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"!")
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read().decode().startswith(f"hvbridge: {endpoint}: reset by upstream")


def test_killed_client_is_a_reset_for_the_service(service: StartService) -> None:
    """When it is killed with data on its way, the service does not take that for a clean end."""
    seen: list[bool] = []
    done = threading.Event()

    def overwhelm(sock: socket.socket) -> None:
        try:
            sock.sendall(bytes(16_000_000))
            seen.append(is_reset(sock))
        except ConnectionError:
            seen.append(True)
        done.set()

    with connect(service(overwhelm).endpoint) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
    assert done.wait(PATIENCE)
    assert seen == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process alone on Windows")
def test_ctrl_c_ends_it_quietly(service: StartService) -> None:
    """Ctrl-C ends it with 1 and without a word."""
    with connect(service(echo).endpoint) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x")
        assert process.stdout.read(1) == b"x"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        (
            "tcp://127.0.0.1:1",
            "the connection was refused (errno 111: Connection refused); start the service there",
        ),
        (f"hyperv://{VM}/8", "no answer from that service; start hvbridge, or another listener"),
        ("hyperv://6a0c8e2e-0000-4000-8000-00000000dead/7", "the VM is not running; start the VM"),
    ],
)
def test_failed_dial_is_told(endpoint: str, told: str, way: Way) -> None:
    """A dial that fails gives exit code 1 and one line: what failed, why, and what to do."""
    done = hvbridge("connect", endpoint, "--dial-timeout", "200ms", environ=through_emulator(way))
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    if sys.platform == "win32":
        told = told.replace("errno 111: Connection refused", "WinError 10061")
    assert line.startswith(f"hvbridge: cannot dial {endpoint}: {told}")


def test_hyperv_is_never_emulated_unasked() -> None:
    """Without Hyper-V and without an emulator the endpoint is refused, with what to do."""
    if sys.platform == "win32":
        pytest.skip("the Windows of these tests has Hyper-V sockets")
    done = hvbridge("connect", f"hyperv://{VM}/ssh")
    assert done.returncode == 2
    assert b"this machine has no Hyper-V; to emulate it, set" in done.stderr
