"""Health checks: what passes, what does not, and what is told of it, in virtual time."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.proxy.health_check import HealthCheck
from hvbridge.proxy.upstream import UpstreamState
from hvbridge.transport.errors import Cause, DialError

UPSTREAM = TcpEndpoint("192.0.2.1", 22)


class Service:
    """A stream of a service that says ``says``, and then ``ends`` or stays silent."""

    def __init__(self, says: bytes = b"", *, ends: bool = False) -> None:
        self._says = says
        self._ends = ends
        self.aborted = False

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._says and not self._ends:
            await trio.sleep_forever()
        said, self._says = self._says[:max_bytes], self._says[max_bytes:]
        return said

    def abort(self) -> None:
        self.aborted = True


class Target:
    """An upstream that is checked, and what is told of it."""

    def __init__(self, expect: bytes = b"SSH-") -> None:
        self.answer: Service | DialError = Service(b"SSH-2.0-OpenSSH")
        self.told: list[DialError | None] = []
        self.dials = 0
        self.state = UpstreamState(self.told.append)
        dial: Callable[[], Awaitable[object]] = self._dial
        self.check = HealthCheck(
            UPSTREAM,
            dial,  # type: ignore[arg-type]
            self.state,
            interval=30,
            timeout=5,
            expect=expect,
        )

    async def _dial(self) -> Service:
        self.dials += 1
        if isinstance(self.answer, DialError):
            raise self.answer
        return self.answer


async def begin(patient: Target, nursery: trio.Nursery) -> None:
    """Check once."""
    nursery.start_soon(patient.check.run)
    await trio.sleep(10)


async def test_an_expected_greeting_passes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A service that says what is expected is up, and its connection is closed."""
    patient = Target()
    assert not patient.check.passes
    await begin(patient, nursery)
    assert patient.check.passes
    assert patient.state.is_known
    assert isinstance(patient.answer, Service)
    assert patient.answer.aborted


async def test_without_expectation_an_answered_dial_passes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A service that waits for its client is up when it can be dialled."""
    patient = Target(expect=b"")
    patient.answer = Service()
    await begin(patient, nursery)
    assert patient.check.passes


@pytest.mark.parametrize("answer", [Service(), Service(b"220 ftp\r\n"), Service(b"SS", ends=True)])
async def test_a_phantom_fails(
    answer: Service, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What takes the connection and says nothing, something else, or too little is down, with a cause."""
    patient = Target()
    patient.answer = answer
    await begin(patient, nursery)
    assert not patient.check.passes
    assert answer.aborted
    assert [error and error.cause for error in patient.told] == [Cause.WRONG_ANSWER]


async def test_changes_are_told_once(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """It goes on checking, and tells of down and up once each."""
    patient = Target()
    patient.answer = DialError(UPSTREAM, Cause.REFUSED)
    await begin(patient, nursery)
    await trio.sleep(300)
    patient.answer = Service(b"SSH-")
    await trio.sleep(30)
    assert patient.dials > 8
    assert [error and error.cause for error in patient.told] == [Cause.REFUSED, None]
