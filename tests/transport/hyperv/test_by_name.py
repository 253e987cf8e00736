"""VMs by name: looked up when they are used, and anew when a dial finds them gone."""

import uuid
from dataclasses import dataclass, field

import pytest
import trio.testing

from hvbridge.address.endpoint import HypervEndpoint, NamedHypervEndpoint, parse_endpoint
from hvbridge.hyperv import guid
from hvbridge.hyperv.vms import Vm, VmError, VmState
from hvbridge.hyperv.vms.resolver import VmResolver
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.hyperv.by_name import NamedHypervTransport
from hvbridge.transport.options import DialOptions, ListenOptions

ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)
SSH = guid.service_id_of_port(22)
DEV_BOX = NamedHypervEndpoint("dev-box", SSH)


@dataclass
class Directory:
    """VMs as a test has them, and how often they were asked for."""

    known: dict[str, uuid.UUID]
    asked: int = 0
    wsl: uuid.UUID = ONE

    async def vms(self) -> list[Vm]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return [Vm(name, vm, VmState.RUNNING) for name, vm in self.known.items()]

    async def wsl_vm_id(self, *, start: bool) -> uuid.UUID:
        self.asked += 1
        return self.wsl


@dataclass
class ById:
    """A transport that reaches the VMs that are running."""

    running: set[uuid.UUID]
    dialled: list[uuid.UUID] = field(default_factory=list)

    async def dial(self, endpoint: HypervEndpoint, options: DialOptions) -> object:
        self.dialled.append(endpoint.vm)
        if endpoint.vm not in self.running:
            raise DialError(endpoint, Cause.NOT_RUNNING)
        return endpoint

    async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[object]:
        raise NotImplementedError


def by_name(directory: Directory, by_id: ById) -> NamedHypervTransport:
    return NamedHypervTransport(by_id, VmResolver(directory))  # type: ignore[arg-type]


async def test_a_name_is_asked_for_once_and_kept() -> None:
    """Many dials, also at the same time, cost one question."""
    directory, by_id = Directory({"dev-box": ONE}), ById({ONE})
    transport = by_name(directory, by_id)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(transport.dial, DEV_BOX, DialOptions())
    await transport.dial(DEV_BOX, DialOptions())
    assert by_id.dialled == [ONE] * 6
    assert directory.asked == 1


async def test_a_vm_that_is_gone_is_looked_up_anew(autojump_clock: trio.testing.MockClock) -> None:
    """When the id no longer runs and the name means another VM now, that one is dialled at once."""
    directory, by_id = Directory({"dev-box": ONE}), ById({ONE})
    transport = by_name(directory, by_id)
    await transport.dial(DEV_BOX, DialOptions())
    await trio.sleep(60)
    directory.known, by_id.running = {"dev-box": TWO}, {TWO}
    await transport.dial(DEV_BOX, DialOptions())
    assert by_id.dialled == [ONE, ONE, TWO]


async def test_a_vm_that_is_off_does_not_cost_a_question_for_every_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Failed dials in quick succession share one answer; later ones ask again."""
    directory = Directory({"dev-box": ONE})
    transport = by_name(directory, ById(set()))
    for _ in range(10):
        with pytest.raises(DialError) as caught:
            await transport.dial(DEV_BOX, DialOptions())
    assert directory.asked == 1
    await trio.sleep(6)
    with pytest.raises(DialError):
        await transport.dial(DEV_BOX, DialOptions())
    assert directory.asked == 2
    assert str(caught.value).startswith("cannot dial hyperv://dev-box/ssh: the VM is not running")


async def test_wsl_is_the_utility_vm() -> None:
    """The name wsl is asked of WSL, not of Hyper-V's list."""
    by_id = ById({TWO})
    await by_name(Directory({}, wsl=TWO), by_id).dial(NamedHypervEndpoint("WSL", SSH), DialOptions())
    assert by_id.dialled == [TWO]


@pytest.mark.parametrize(
    ("known", "name", "words"),
    [
        ({"dev-box": ONE}, "devbox", 'there is no VM named "devbox"; did you mean "dev-box"?'),
        ({"dev-box": ONE}, "parnet", 'did you mean "parent"?'),
        ({"dev-box": ONE}, "zzz", 'there is no VM named "zzz"; there are "dev-box"'),
        ({}, "zzz", "this machine has no VMs"),
        ({"a": ONE, "A": TWO}, "a", None),
        ({"Dev-Box": ONE}, "dev-box", None),
    ],
)
async def test_names_that_mean_no_vm_are_explained(
    known: dict[str, uuid.UUID], name: str, words: str | None
) -> None:
    """An unknown name is an error with near names; an exact match wins over case."""
    dial = by_name(Directory(known), ById({ONE})).dial(NamedHypervEndpoint(name, SSH), DialOptions())
    if words is None:
        await dial
        return
    with pytest.raises(DialError) as caught:
        await dial
    assert caught.value.cause is Cause.NAME_UNKNOWN
    assert words in str(caught.value)


async def test_a_name_of_two_vms_is_ambiguous() -> None:
    """Hyper-V lets two VMs have one name: the ids to choose from are told, for listeners too."""

    class Twins(Directory):
        async def vms(self) -> list[Vm]:
            return [Vm("dev-box", vm, VmState.OFF) for vm in (ONE, TWO)]

    with pytest.raises(ListenError, match=f"write the id of one: {ONE}, {TWO}"):
        await by_name(Twins({}), ById(set())).listen(DEV_BOX, ListenOptions())


async def test_a_failing_directory_is_a_dial_error() -> None:
    """When VMs cannot be listed, the dial says why."""

    class Broken(Directory):
        async def vms(self) -> list[Vm]:
            raise VmError("this user may not ask Hyper-V; join the group")

    with pytest.raises(DialError, match="join the group"):
        await by_name(Broken({}), ById(set())).dial(DEV_BOX, DialOptions())


def test_without_a_host_names_are_a_fault() -> None:
    """A guest does not know VMs' names, and says so, with what was probably meant."""
    transport = NamedHypervTransport(ById(set()), None)  # type: ignore[arg-type]
    assert "only a Hyper-V host knows VM names" in str(transport.fault(DEV_BOX, "connect"))
    parnet = parse_endpoint("hyperv://parnet/ssh")
    assert isinstance(parnet, NamedHypervEndpoint)
    assert "did you mean parent?" in str(transport.fault(parnet, "connect"))


@dataclass
class Listener:
    """A listener for one id, which never hears anybody."""

    vm: uuid.UUID
    closed: bool = False

    async def wait_acceptable(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        self.closed = True


async def test_a_listener_follows_its_vm(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """When WSL's VM has another id, the listener is bound to that one, once, and says so once."""
    bound: list[Listener] = []

    class Binds(ById):
        async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[object]:
            bound.append(Listener(endpoint.vm))
            return [bound[-1]]

    directory = Directory({}, wsl=ONE)
    caplog.set_level("INFO")
    (listener,) = await by_name(directory, Binds(set())).listen(
        NamedHypervEndpoint("wsl", SSH), ListenOptions()
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.wait_acceptable)
        await trio.sleep(60)
        assert [one.vm for one in bound] == [ONE]
        directory.wsl = TWO
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert [(one.vm, one.closed) for one in bound] == [(ONE, True), (TWO, False)]
    assert caplog.text.count("has another id") == 1
    listener.close()
    assert bound[-1].closed


async def test_a_listener_whose_vm_is_gone_keeps_looking(autojump_clock: trio.testing.MockClock) -> None:
    """While the VM cannot be found the listener stays, and follows once it can."""
    bound: list[Listener] = []

    class Binds(ById):
        async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[object]:
            bound.append(Listener(endpoint.vm))
            return [bound[-1]]

    directory = Directory({"dev-box": ONE})
    (listener,) = await by_name(directory, Binds(set())).listen(DEV_BOX, ListenOptions())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.wait_acceptable)
        directory.known = {}
        await trio.sleep(200)
        assert [(one.vm, one.closed) for one in bound] == [(ONE, False)]
        directory.known = {"dev-box": TWO}
        await trio.sleep(61)
        nursery.cancel_scope.cancel()
    assert [one.vm for one in bound] == [ONE, TWO]
