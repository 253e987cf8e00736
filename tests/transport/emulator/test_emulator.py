"""The emulator keeps Hyper-V's rules, over both of its carriers."""

import socket
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import HypervEndpoint
from hvbridge.hyperv import guid
from hvbridge.hyperv.guid import ANY, CHILDREN, HOST, LOOPBACK, PARENT
from hvbridge.hyperv.services import Service
from hvbridge.transport.emulator import tcp as emulator_tcp
from hvbridge.transport.emulator.services import EmulatorRegistry
from hvbridge.transport.emulator.transport import EmulatorTransport
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.listener import Listener, SocketListener
from hvbridge.transport.network import Network
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import HandshakeError, SocketStream

GUEST = uuid.UUID("11111111-2222-4333-8444-555555555555")
OTHER_GUEST = uuid.UUID("99999999-2222-4333-8444-555555555555")
SSH = guid.service_id_of_port(22)

_CARRIERS: list[Any] = [emulator_tcp]
if sys.platform != "win32":
    from hvbridge.transport.emulator import unix as emulator_unix

    _CARRIERS.append(emulator_unix)


class Machine:
    """An emulated machine, as each of its partitions sees it."""

    def __init__(self, directory: Path, carrier: Any) -> None:
        self.directory = directory
        self.carrier = carrier

    def inside(self, partition: uuid.UUID, *, enforce_registration: bool = False) -> EmulatorTransport:
        """The transport of a process in ``partition``."""
        return EmulatorTransport(
            self.directory, partition, self.carrier, enforce_registration=enforce_registration
        )


@pytest.fixture(params=_CARRIERS, ids=lambda carrier: carrier.__name__.rpartition(".")[2])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    # A short path: that of a Unix socket has little room.
    return Machine(tmp_path_factory.mktemp("emu"), request.param)


async def listen(transport: EmulatorTransport, vm: uuid.UUID, service: uuid.UUID = SSH) -> Listener:
    (listener,) = await transport.listen(HypervEndpoint(vm, service), ListenOptions())
    return listener


async def connect_silently(machine: Machine, listener: Listener) -> socket.socket:
    """Connect to a listener of the emulator, and say nothing."""
    place = listener.socket.getsockname()  # type: ignore[attr-defined]
    if sys.platform != "win32" and isinstance(place, str):
        stranger = socket.socket(socket.AF_UNIX)
    else:
        stranger = socket.socket(socket.AF_INET)
    stranger.connect(place)
    stranger.setblocking(False)
    return stranger


async def pair(machine: Machine, *, guest_listens: bool = True) -> tuple[SocketStream, SocketStream]:
    """A connection between host and guest: the dialler's end and the accepted one, after its handshake."""
    host, guest = machine.inside(HOST), machine.inside(GUEST)
    if guest_listens:
        listener = await listen(guest, PARENT)
        client = await host.dial(HypervEndpoint(GUEST, SSH), DialOptions())
    else:
        listener = await listen(host, CHILDREN)
        client = await guest.dial(HypervEndpoint(PARENT, SSH), DialOptions())
    server = await listener.accept()
    await server.do_handshake()
    await listener.aclose()
    return client, server


REACH = [
    # who dials, the VmId that it dials, who listens, the VmId that is bound, and the peer that is seen
    (HOST, GUEST, GUEST, PARENT, "hyperv://parent"),
    (HOST, GUEST, GUEST, ANY, "hyperv://parent"),
    (GUEST, PARENT, HOST, GUEST, f"hyperv://{GUEST}"),
    (GUEST, PARENT, HOST, CHILDREN, f"hyperv://{GUEST}"),
    (GUEST, PARENT, HOST, ANY, f"hyperv://{GUEST}"),
    (HOST, LOOPBACK, HOST, LOOPBACK, "hyperv://loopback"),
    (HOST, LOOPBACK, HOST, ANY, "hyperv://loopback"),
    (GUEST, LOOPBACK, GUEST, ANY, "hyperv://loopback"),
]


@pytest.mark.parametrize(("dialler", "dialled", "home", "scope", "peer"), REACH)
async def test_reaches_whom_hyperv_reaches(
    machine: Machine, dialler: uuid.UUID, dialled: uuid.UUID, home: uuid.UUID, scope: uuid.UUID, peer: str
) -> None:
    """A listener hears the partitions that its VmId admits, and learns which one dialled."""
    listener = await listen(machine.inside(home), scope)
    client = await machine.inside(dialler).dial(HypervEndpoint(dialled, SSH), DialOptions())
    server = await listener.accept()
    await server.do_handshake()
    assert server.peer == peer
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"
    client.abort()
    server.abort()
    await listener.aclose()


SILENT = [
    # who dials, the VmId, who listens, the VmId that is bound: nobody hears
    (HOST, GUEST, GUEST, LOOPBACK),
    (HOST, GUEST, GUEST, OTHER_GUEST),
    (GUEST, PARENT, HOST, OTHER_GUEST),
    (GUEST, PARENT, HOST, LOOPBACK),
    (HOST, LOOPBACK, HOST, CHILDREN),
]


@pytest.mark.parametrize(("dialler", "dialled", "home", "scope"), SILENT)
async def test_a_listener_of_another_scope_stays_silent(
    machine: Machine, dialler: uuid.UUID, dialled: uuid.UUID, home: uuid.UUID, scope: uuid.UUID
) -> None:
    """A dial that no listener's VmId admits times out, as at a Linux guest."""
    listener = await listen(machine.inside(home), scope)
    network = Network(machine.inside(dialler))
    with pytest.raises(DialError) as caught:
        await network.dial(HypervEndpoint(dialled, SSH), DialOptions(timeout=0.02))
    assert caught.value.cause is Cause.NOBODY_LISTENING
    await listener.aclose()


async def test_the_closest_scope_is_heard_first(machine: Machine) -> None:
    """Among listeners for one service, the one bound to the very VM gets the connection."""
    host = machine.inside(HOST)
    everybody, children, just_one = [await listen(host, vm) for vm in (ANY, CHILDREN, GUEST)]
    for nearest in (just_one, children, everybody):
        client = await machine.inside(GUEST).dial(HypervEndpoint(PARENT, SSH), DialOptions())
        server = await nearest.accept()
        client.abort()
        server.abort()
        await nearest.aclose()


@pytest.mark.parametrize(
    ("dialler", "dialled"),
    [(HOST, GUEST), (GUEST, OTHER_GUEST), (HOST, PARENT), (GUEST, PARENT)],
)
async def test_what_does_not_run_cannot_be_reached(
    machine: Machine, dialler: uuid.UUID, dialled: uuid.UUID
) -> None:
    """A VM without a process, a sibling VM and the host's parent are not running for a dialler."""
    with pytest.raises(DialError) as caught:
        await machine.inside(dialler).dial(HypervEndpoint(dialled, SSH), DialOptions())
    assert caught.value.cause is Cause.NOT_RUNNING


async def test_a_running_vm_without_a_listener_is_silent(machine: Machine) -> None:
    """A VM that runs but does not listen times out rather than refuses."""
    machine.inside(HOST).start_vm(GUEST)
    network = Network(machine.inside(HOST))
    with pytest.raises(DialError) as caught:
        await network.dial(HypervEndpoint(GUEST, SSH), DialOptions(timeout=0.02))
    assert caught.value.cause is Cause.NOBODY_LISTENING


async def test_services_are_told_apart(machine: Machine) -> None:
    """A listener on one service does not answer for another."""
    listener = await listen(machine.inside(GUEST), PARENT, guid.service_id_of_port(80))
    with pytest.raises(DialError):
        await Network(machine.inside(HOST)).dial(HypervEndpoint(GUEST, SSH), DialOptions(timeout=0.02))
    await listener.aclose()


async def test_enforced_registration_denies_what_is_not_registered(machine: Machine) -> None:
    """Where registration is enforced, the host needs it for a service, and a guest does not."""
    host = machine.inside(HOST, enforce_registration=True)
    guest_listener = await listen(machine.inside(GUEST, enforce_registration=True), PARENT)
    with pytest.raises(DialError) as refused:
        await host.dial(HypervEndpoint(GUEST, SSH), DialOptions())
    assert refused.value.cause is Cause.NOT_PERMITTED
    with pytest.raises(ListenError) as unbound:
        await listen(host, CHILDREN)
    assert unbound.value.cause is Cause.NOT_PERMITTED
    EmulatorRegistry(machine.directory).register(Service(SSH, "ssh"))
    (await host.dial(HypervEndpoint(GUEST, SSH), DialOptions())).abort()
    await guest_listener.aclose()


@pytest.mark.parametrize("guest_listens", [True, False])
async def test_half_close_reaches_the_other_side(machine: Machine, guest_listens: bool) -> None:
    """An end of data is an end there, and data still comes back."""
    client, server = await pair(machine, guest_listens=guest_listens)
    await client.send_eof()
    assert await server.receive_some() == b""
    await server.send_all(b"late reply")
    await server.send_eof()
    assert await client.receive_some() == b"late reply"
    assert await client.receive_some() == b""
    await client.aclose()
    await server.aclose()


@pytest.mark.parametrize("cut_by_dialler", [True, False])
@pytest.mark.parametrize("half_closed", [True, False])
async def test_a_reset_is_never_a_clean_end(
    machine: Machine, cut_by_dialler: bool, half_closed: bool
) -> None:
    """An aborted stream is a reset for its peer, even when the peer itself has ended its data already."""
    client, server = await pair(machine)
    cutter, victim = (client, server) if cut_by_dialler else (server, client)
    if half_closed:
        await victim.send_eof()
        assert await cutter.receive_some() == b""
    cutter.abort()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await victim.receive_some()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    victim.abort()


async def test_a_second_listener_is_refused_while_the_first_lives(machine: Machine) -> None:
    """One address has one listener; once it is closed, or its process is gone, the next may have it."""
    guest = machine.inside(GUEST)
    first = await listen(guest, PARENT)
    with pytest.raises(ListenError) as caught:
        await listen(guest, PARENT)
    assert caught.value.cause is Cause.IN_USE
    assert isinstance(first, SocketListener)
    first.socket.close()  # as when its process died: what marks it in the directory stays behind
    second = await listen(guest, PARENT)
    await second.aclose()


async def test_a_silent_dialler_fails_its_own_handshake(machine: Machine) -> None:
    """Whoever connects and leaves without saying who it is ends in a handshake error, not in a peer."""
    guest = machine.inside(GUEST)
    listener = await listen(guest, PARENT)
    endpoint = HypervEndpoint(PARENT, SSH)
    with pytest.raises(ListenError):
        await guest.listen(endpoint, ListenOptions())  # its probe of the living listener says nothing
    server = await listener.accept()
    with pytest.raises(HandshakeError):
        await server.do_handshake()
    server.abort()
    await listener.aclose()


async def test_a_dialler_that_leaves_in_the_handshake_is_no_bug(machine: Machine) -> None:
    """A reset, or an end, before the dialler has said who it is fails the handshake, and nothing else."""
    listener = await listen(machine.inside(GUEST), PARENT)
    for leave in (SocketStream.abort, SocketStream.close):
        stranger = await connect_silently(machine, listener)
        accepted = await listener.accept()
        leave(SocketStream(stranger))
        with pytest.raises(HandshakeError, match="disconnected before identifying itself"):
            await accepted.do_handshake()
        accepted.abort()
    listener.close()


async def test_the_handshake_waits_for_nothing_that_is_there(machine: Machine) -> None:
    """What a dialler has sent already is read without a checkpoint, so that connections keep their order."""
    listener = await listen(machine.inside(GUEST), PARENT)
    client = await machine.inside(HOST).dial(HypervEndpoint(GUEST, SSH), DialOptions())
    accepted = await listener.accept()
    with trio.testing.assert_no_checkpoints():
        await accepted.do_handshake()
    assert accepted.client_id == HOST
    client.abort()
    accepted.abort()
    listener.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
@pytest.mark.parametrize("role", ["dial", "listen"])
@pytest.mark.parametrize("fault", ["mode", "link", "owner"])
async def test_a_directory_that_is_not_ones_own_is_refused(
    role: str, fault: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others could take a listener's place, nothing is dialled and nothing is listened on."""
    listener = await listen(machine.inside(GUEST), PARENT)
    what = "may be written by other users"
    if fault == "mode":
        machine.directory.chmod(0o777)
    elif fault == "owner":
        monkeypatch.setattr("os.getuid", lambda: machine.directory.stat().st_uid + 1)
        what = "belongs to another user"
    else:
        link = machine.directory.with_name(f"{machine.directory.name}-link")
        link.symlink_to(machine.directory)
        machine = Machine(link, machine.carrier)
        what = "is a link"
    with pytest.raises(DialError if role == "dial" else ListenError, match=what) as caught:
        if role == "dial":
            await machine.inside(HOST).dial(HypervEndpoint(GUEST, SSH), DialOptions())
        else:
            await listen(machine.inside(HOST), CHILDREN)
    assert caught.value.cause is Cause.NOT_PERMITTED
    listener.close()


async def test_a_stranger_on_the_loopback_port_is_turned_away(tmp_path: Path) -> None:
    """Over loopback TCP, knowing the port is not enough: the listener's secret is asked for."""
    listener = await emulator_tcp.listen(tmp_path / "x", "here", ListenOptions(), str)
    assert isinstance(listener, SocketListener)
    sock = trio.socket.socket()
    await sock.connect(listener.socket.getsockname())
    await sock.send(bytes(32))
    server = await listener.accept()
    with pytest.raises(HandshakeError, match="secret"):
        await server.do_handshake()
    sock.close()
    server.abort()
    await listener.aclose()


@pytest.mark.parametrize(
    ("partition", "vm", "role", "words"),
    [
        (HOST, PARENT, "listen", "the host has no parent"),
        (HOST, PARENT, "connect", "the host has no parent"),
        (GUEST, CHILDREN, "listen", "a VM has no children here"),
        (GUEST, OTHER_GUEST, "connect", "a VM can reach only its parent"),
    ],
)
def test_says_before_it_runs_what_a_partition_cannot_do(
    machine: Machine, partition: uuid.UUID, vm: uuid.UUID, role: str, words: str
) -> None:
    """An endpoint that can never work in its partition is a fault of the config."""
    fault = machine.inside(partition).fault(HypervEndpoint(vm, SSH), role)
    assert words in str(fault)


@pytest.mark.parametrize("vm", [ANY, PARENT, LOOPBACK])
def test_finds_no_fault_with_what_works(machine: Machine, vm: uuid.UUID) -> None:
    """What a guest can listen on is no fault."""
    assert machine.inside(GUEST).fault(HypervEndpoint(vm, SSH), "listen") is None
