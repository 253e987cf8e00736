"""Starting VMs and saving them: what counts as use, whose VMs they are, and when, in virtual time."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import Endpoint, HypervEndpoint, NamedHypervEndpoint
from hvbridge.hyperv.vms import VmError
from hvbridge.proxy.vm_autostart import VmAutostart
from hvbridge.transport.errors import Cause, DialError

VM, OTHER = uuid.UUID(int=5), uuid.UUID(int=7)
SERVICE = uuid.UUID(int=6)
BY_ID = HypervEndpoint(VM, SERVICE)
BY_NAME = NamedHypervEndpoint("dev-box", SERVICE)


@dataclass
class Host:
    """A host with VMs, what it was asked for and when, and what is told of them."""

    started: list[tuple[uuid.UUID, float]] = field(default_factory=list)
    saved: list[tuple[uuid.UUID, float]] = field(default_factory=list)
    failure: VmError | None = None
    names: dict[str, uuid.UUID] = field(default_factory=lambda: {"dev-box": VM})
    told: list[str] = field(default_factory=list)

    async def start(self, vm: uuid.UUID) -> None:
        await trio.sleep(1)
        if self.failure is not None:
            raise self.failure
        self.started.append((vm, trio.current_time()))

    async def save(self, vm: uuid.UUID) -> None:
        if self.failure is not None:
            raise self.failure
        self.saved.append((vm, trio.current_time()))
        await trio.sleep(1)

    async def vm_of(self, endpoint: Endpoint, *, start: bool) -> uuid.UUID:
        if isinstance(endpoint, HypervEndpoint):
            return endpoint.vm
        assert isinstance(endpoint, NamedHypervEndpoint)
        if endpoint.vm not in self.names:
            raise VmError(f"there is no VM named {endpoint.vm}", "write another name")
        return self.names[endpoint.vm]

    def tell(self, vm: str, change: str) -> None:
        self.told.append(f"{vm} {change}")


@dataclass
class Stream:
    """What was dialled."""

    vm_id: uuid.UUID | None


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def autostart(host: Host, nursery: trio.Nursery) -> VmAutostart:
    made = VmAutostart(host, host.vm_of, host.tell)  # type: ignore[arg-type]
    nursery.start_soon(made.run)
    return made


@contextmanager
def connected(autostart: VmAutostart, vm: uuid.UUID | None = VM) -> Iterator[None]:
    """Have a connection to a VM, as a forward has it."""
    with autostart.use.lease() as lease:
        lease.settle(Stream(vm))  # type: ignore[arg-type]
        yield


async def test_many_connections_start_a_vm_once(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """Connections that find it off together, by its name and by its id, start it once."""
    async with trio.open_nursery() as nursery:
        for endpoint in (BY_ID, BY_NAME, BY_ID):
            nursery.start_soon(autostart.start, endpoint)
    await autostart.start(BY_NAME)
    assert [vm for vm, _ in host.started] == [VM]
    assert len(host.told) == 1


@pytest.mark.parametrize(
    "failure",
    [
        VmError("PowerShell did not answer in 60 s", "try again"),
        VmError("this user may not ask Hyper-V", "join the group"),
    ],
)
async def test_a_failed_start_says_why(
    failure: VmError, host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """The error says that the VM could not be started, why, and what to do: nothing of a missing registration."""
    host.failure = failure
    with pytest.raises(DialError) as caught:
        await autostart.start(BY_NAME)
    assert caught.value.cause is Cause.VM_NOT_STARTED
    assert str(caught.value) == f"cannot dial {BY_NAME}: the VM could not be started: {failure}"


async def test_it_is_saved_that_long_after_its_last_connection_closed(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """idle_save counts from the last close, exactly, however connections came and went before."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    with connected(autostart):
        await trio.sleep(1000)
    await trio.sleep(60)
    with connected(autostart):
        await trio.sleep(60)
    last = trio.current_time()
    await trio.sleep(300)
    assert host.saved == [(VM, pytest.approx(last + 100))]
    assert host.told == ["dev-box started", "dev-box saved"]


async def test_a_started_vm_that_nobody_reaches_is_saved(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """A VM that was started for a client who gave up is idle from then on."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    await trio.sleep(300)
    assert host.saved == [(VM, pytest.approx(101))]


async def test_what_somebody_else_started_is_left_alone(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """hvbridge saves only what it started."""
    autostart.configure({BY_NAME: 10.0})
    with connected(autostart):
        await trio.sleep(1)
    await trio.sleep(100)
    assert host.saved == []


async def test_every_connection_to_the_vm_keeps_it(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """Any connection to the VM keeps it running; one to another VM does not."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    with connected(autostart, VM):
        await trio.sleep(10_000)
        assert host.saved == []
    with connected(autostart, OTHER):
        await trio.sleep(300)
    assert [vm for vm, _ in host.saved] == [VM]


async def test_a_reload_that_drops_start_saves_nothing(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """A VM that no forward may start any more is never saved, with connections or without."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    with connected(autostart):
        autostart.configure({})
        await trio.sleep(300)
    await trio.sleep(300)
    assert host.saved == []


async def test_connections_of_before_a_reload_count(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """What was open before start came into the config keeps the VM, too."""
    with connected(autostart):
        autostart.configure({BY_ID: 100.0})
        await autostart.start(BY_ID)
        await trio.sleep(1000)
        assert host.saved == []


async def test_the_longest_of_its_forwards_counts(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """Forwards that write one VM differently agree on the longest time; a name that means nothing changes nothing."""
    unknown = NamedHypervEndpoint("gone", SERVICE)
    autostart.configure({BY_NAME: 100.0, BY_ID: 500.0, unknown: 9000.0})
    await autostart.start(BY_NAME)
    await trio.sleep(2000)
    assert host.saved == [(VM, pytest.approx(501))]


async def test_a_dial_under_way_keeps_every_vm(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """Until it is known which VM a connection needs, none is saved; soon after, those that are due."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    with autostart.use.lease():
        await trio.sleep(1000)
        assert host.saved == []
    await trio.sleep(2)
    assert [vm for vm, _ in host.saved] == [VM]


async def test_a_vm_that_cannot_be_saved_is_told_and_tried_again_later(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """The failure is told each time, no more often than idle_save, and ends nothing."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    host.failure = VmError("PowerShell printed nothing", "do it yourself")
    await trio.sleep(250)
    assert host.told[1:] == ["dev-box could not be saved: PowerShell printed nothing; do it yourself"] * 2
    host.failure = None
    await trio.sleep(100)
    assert host.told[-1] == "dev-box saved"


async def test_a_vm_that_is_wanted_while_it_is_saved_is_started_afterwards(
    host: Host, autostart: VmAutostart, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that comes amid a save waits for its end, and has the VM started again."""
    autostart.configure({BY_NAME: 100.0})
    await autostart.start(BY_NAME)
    await trio.sleep(100.5)
    assert host.saved
    await autostart.start(BY_NAME)
    assert [when for _, when in host.started] == [1, pytest.approx(103)]
