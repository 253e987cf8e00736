"""Listeners of systemd's making: real sockets, bound here in its place. Those of AF_VSOCK are tested in `vm`."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from hvbridge.address.endpoint import SystemdEndpoint
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.network import native_network
from hvbridge.transport.options import DialOptions, ListenOptions

if sys.platform != "linux":
    pytest.skip("systemd exists only on Linux", allow_module_level=True)
assert sys.platform == "linux"  # so that mypy leaves the rest alone elsewhere

from hvbridge.transport.socket_activation import SystemdTransport, systemd_sockets  # noqa: E402 - it has the same assertion

WEB = SystemdEndpoint("web")


def transport(sockets: Mapping[str, list[socket.socket]]) -> SystemdTransport:
    return SystemdTransport(lambda: sockets)


async def test_a_tcp_socket_makes_streams_as_a_tcp_listener_does() -> None:
    """What is accepted knows its peer, sends small writes at once, and probes a silent client."""
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.socket() as client:
        port = bound.getsockname()[1]
        (listener,) = await transport({"web": [bound]}).listen(WEB, ListenOptions(tcp_keepalive=42))
        assert listener.where == f"tcp://127.0.0.1:{port}"
        client.connect(("127.0.0.1", port))
        stream = await listener.accept()
        assert stream.peer == f"127.0.0.1:{client.getsockname()[1]}"
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 42
        await stream.send_all(b"hello")
        assert client.recv(5) == b"hello"
        await stream.aclose()
        await listener.aclose()


@pytest.mark.parametrize("abstract", [False, True])
async def test_a_unix_socket_is_left_where_it_is(tmp_path: Path, abstract: bool) -> None:
    """Its peers are called after it, and its file stays when the listener goes: systemd made it."""
    path = f"{tmp_path}/web.sock"
    address = "\0" + path if abstract else path
    with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as client:
        bound.bind(address)
        bound.listen()
        (listener,) = await transport({"web": [bound]}).listen(WEB, ListenOptions())
        client.connect(address)
        stream = await listener.accept()
        assert stream.peer == listener.where == (f"unix://@{path}" if abstract else f"unix://{path}")
        await stream.aclose()
        await listener.aclose()
        assert Path(path).exists() is not abstract


async def test_every_socket_of_a_name_is_listened_on_again_and_again() -> None:
    """A unit may have several addresses, and a config that is read again finds them all, still bound."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        sockets = transport({"web": [one, other]})
        for listener in await sockets.listen(WEB, ListenOptions()):
            await listener.aclose()
        listeners = await sockets.listen(WEB, ListenOptions())
        assert len({listener.where for listener in listeners}) == 2
        with socket.create_connection(other.getsockname()):
            stream = await listeners[1].accept()
            await stream.aclose()
        for listener in listeners:
            await listener.aclose()


async def test_nobody_is_turned_away_while_no_listener_is_there() -> None:
    """A client that comes when a listener has closed waits for the next one, for systemd holds the socket."""
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.socket() as client:
        sockets = transport({"web": [bound]})
        (listener,) = await sockets.listen(WEB, ListenOptions())
        await listener.aclose()
        client.connect(bound.getsockname())
        (listener,) = await sockets.listen(WEB, ListenOptions())
        with trio.fail_after(5):
            stream = await listener.accept()
        await stream.aclose()
        await listener.aclose()


async def test_a_name_that_was_not_passed_is_told() -> None:
    """Who was not started by a .socket unit learns how; who was, which names there are."""
    with pytest.raises(ListenError) as alone:
        await transport({}).listen(WEB, ListenOptions())
    assert alone.value.cause is Cause.NOT_PASSED
    assert str(alone.value) == (
        "cannot listen on systemd://web: systemd passed no listening stream socket of this name; write a .socket "
        "unit with ListenStream= and this name as FileDescriptorName=, and start hvbridge through it"
    )
    with pytest.raises(ListenError) as other:
        await transport({"ssh": [], "hvbridge.socket": []}).listen(WEB, ListenOptions())
    assert str(other.value).endswith(
        '; it passed "hvbridge.socket" and "ssh"; set FileDescriptorName=web in the .socket unit, or use a '
        "name that it passed"
    )


async def test_one_socket_that_fails_fails_the_name() -> None:
    """All sockets of a name are listened on, or none, and the system's error is told."""
    with socket.create_server(("127.0.0.1", 0)) as good, socket.create_server(("127.0.0.1", 0)) as gone:
        gone.close()
        with pytest.raises(ListenError, match=r"cannot listen on systemd://web: .*errno 9"):
            await transport({"web": [good, gone]}).listen(WEB, ListenOptions())


async def test_nothing_dials_it() -> None:
    """The endpoint means sockets that listen, and nothing to connect to."""
    with pytest.raises(DialError, match="write the address of the service"):
        await transport({}).dial(WEB, DialOptions())


def test_a_config_may_name_what_only_systemd_knows() -> None:
    """Whether a name will be passed is no fault of a config."""
    assert native_network().fault(WEB, "listen") is None


def test_other_systems_have_no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows and macOS the endpoint is a fault, with what to write."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert str(native_network().fault(WEB, "listen")) == (
        "systemd exists only on Linux; write tcp://127.0.0.1:PORT"
    )


# Taking them over.

_TAKE = """
import os, socket, sys
from hvbridge.transport.socket_activation import systemd_sockets
taken = systemd_sockets()
for name, sockets in taken.items():
    for sock in sockets:
        print(name, sock.fileno(), sock.family.name, os.get_inheritable(sock.fileno()))
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), systemd_sockets())
"""


def activate(program: str, *descriptors: int, **variables: str) -> list[str]:
    """Run a Python program that inherits ``descriptors`` from 3 on, as systemd starts one; return what it prints."""
    # The shell has the pid that the program will have, and lower numbers are free for the descriptors there only.
    moves = " ".join(f"{3 + index}<&{source}" for index, source in enumerate(descriptors))
    return subprocess.run(
        [
            "bash",
            "-c",
            f'export LISTEN_PID=${{FAKE_PID:-$$}}; exec "$0" -c "$1" {moves}',
            sys.executable,
            program,
        ],
        pass_fds=descriptors,
        env=os.environ | {"LISTEN_FDS": str(len(descriptors))} | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@pytest.fixture
def high() -> Iterator[Callable[[Any], int]]:
    """Duplicates descriptors to numbers above those that `activate` fills."""
    made: list[int] = []

    def duplicate(file: Any) -> int:
        import fcntl

        made.append(fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 20))
        return made[-1]

    yield duplicate
    for descriptor in made:
        os.close(descriptor)


def test_sockets_come_by_name(high: Callable[[Any], int]) -> None:
    """Those of one name are together; none is inherited further, and the variables are gone."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        printed = activate(_TAKE, high(one), high(other), high(one), LISTEN_FDNAMES="web:ssh:web")
    assert printed == [
        "web 3 AF_INET False",
        "web 5 AF_INET False",
        "ssh 4 AF_INET False",
        "[] {}",
    ]


def test_sockets_without_names_are_unknown(high: Callable[[Any], int]) -> None:
    """A manager that passes no names leaves them called as libsystemd calls them."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert activate(_TAKE, high(one))[0] == "unknown 3 AF_INET False"


def test_only_listening_streams_are_taken(high: Callable[[Any], int]) -> None:
    """A datagram socket, one that listens for packets, a connected one and what is no socket at all are passed over."""
    one, other = socket.socketpair()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.create_server(("127.0.0.1", 0)) as good,
        one,
        other,
        Path(os.devnull).open("rb") as file,
    ):
        packets.bind("")
        packets.listen()
        descriptors = [high(passed) for passed in (datagrams, packets, one, file, good)]
        printed = activate(_TAKE, *descriptors, LISTEN_FDNAMES="a:b:c:d:e")
    assert printed == ["e 7 AF_INET False", "[] {}"]


def test_sockets_of_another_process_are_left_alone(high: Callable[[Any], int]) -> None:
    """A child that inherited the variables does not take what was passed to its parent."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert activate(_TAKE, high(one), FAKE_PID="1", LISTEN_FDNAMES="web") == ["[] {}"]


def test_no_sockets_without_systemd() -> None:
    """A process that was started otherwise has none."""
    assert systemd_sockets({}) == {}
