"""The doctor on Windows CPython: connect modes over AF_HYPERV sockets, the registry, and the programs of Windows."""

import sys
from uuid import uuid4

from hvbridge.config import Forward
from hvbridge.doctor import Check, Finding, State
from hvbridge.doctor.checklist import Target, examine
from hvbridge.doctor.loopback import check_connect_mode
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.services import Service
from hvbridge.transport.network import native_network

from .partitions import GUEST, Partitions, needs_partitions

pytestmark = needs_partitions

PORT = 5000


def forward(**settings: object) -> Forward:
    """A forward to the guest that the tests make."""
    defaults = {"name": "guest", "listen": "tcp://127.0.0.1:0", "connect": f"hyperv://{GUEST}/{PORT}"}
    return Forward.model_validate(defaults | {"dial_timeout": "1s"} | settings)


async def look(*forwards: Forward) -> dict[Check, Finding]:
    """Examine this machine and ``forwards``, with the registry of this Windows."""
    if sys.platform != "win32":
        raise NotImplementedError
    from hvbridge.hyperv.services.windows import WindowsRegistry

    patient = Target(native_network(), WindowsRegistry(), forwards=forwards)
    return {finding.check: finding for finding in await examine(patient, Machine())}


async def test_every_mode_connects(partitions: Partitions) -> None:
    """Over loopback both modes connect, and the bytes arrive."""
    found = await check_connect_mode(native_network())
    assert (found.state, found.summary) == (State.OK, "nonblocking and thread both connect over loopback")


async def test_one_mode_connects(partitions: Partitions) -> None:
    """Where sockets of the family cannot be waited for, the advice is to connect in threads."""
    partitions.forbid_waiting_for_connects()
    found = await check_connect_mode(native_network())
    assert found.state is State.DOUBTFUL
    assert 'connect_mode = "thread"' in found.advice


async def test_no_hyperv(partitions: Partitions) -> None:
    """A Windows without Hyper-V sockets says so, and how to get them."""
    partitions.abolish_hyperv()
    found = await check_connect_mode(native_network())
    assert found.state is State.FAILED
    assert "Virtual Machine Platform" in found.advice


async def test_what_a_dial_meets(partitions: Partitions) -> None:
    """A VM that is off, and one in which nobody listens, are told by the dial; the service by the registry."""
    found = await look(forward())
    assert found[Check.PYTHON].state is State.OK
    assert found[Check.SERVICE].state is State.FAILED
    assert found[Check.DIAL].summary == f"hyperv://{GUEST}/{PORT}: the VM is not running (WinError 10049)"
    partitions.run(GUEST)
    found = await look(forward())
    assert (
        found[Check.DIAL].summary == f"hyperv://{GUEST}/{PORT}: the connection was refused (WinError 10061)"
    )


async def test_an_unregistered_service(partitions: Partitions) -> None:
    """Once the service is registered, what was refused is not any more."""
    if sys.platform != "win32":
        raise NotImplementedError
    from hvbridge.hyperv.services.windows import WindowsRegistry

    partitions.run(GUEST)
    partitions.require_registration()
    service = uuid4()
    to_service = forward(connect=f"hyperv://{GUEST}/{service}")
    found = await look(to_service)
    assert found[Check.DIAL].summary.startswith(f"hyperv://{GUEST}/{service}: not permitted")
    assert found[Check.DIAL].advice == "first fix what service reports"
    WindowsRegistry().register(Service(service, "for the doctor"))
    found = await look(to_service)
    assert found[Check.SERVICE].state is State.OK
    assert "not permitted" not in found[Check.DIAL].summary


async def test_a_host_has_no_parent(partitions: Partitions) -> None:
    """A listener that only a guest can have is not on this machine."""
    found = await look(forward(listen=f"hyperv://parent/{PORT}"))
    assert found[Check.LISTEN].state is State.FAILED
    assert "is not on this machine" in found[Check.LISTEN].summary
