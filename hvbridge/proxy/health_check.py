"""Checks, without a client, whether an upstream answers; `UpstreamState` reports changes."""

from collections.abc import Awaitable, Callable

import trio

from hvbridge.address.endpoint import Endpoint
from hvbridge.proxy.upstream import UpstreamState
from hvbridge.transport.errors import Cause, DialError
from hvbridge.transport.stream import SocketStream


class HealthCheck:
    """Dials ``upstream`` every ``interval`` seconds, and reads its first bytes if ``expect`` gives them.

    A dial alone may be answered by what is in front of the service, such as a listener whose service hangs; so a
    check that expects ``b"SSH-"`` finds out more. ``timeout`` is for the dial and the bytes each, in seconds.
    """

    def __init__(
        self,
        upstream: Endpoint,
        dial: Callable[[], Awaitable[SocketStream]],
        state: UpstreamState,
        *,
        interval: float,
        timeout: float,
        expect: bytes,
    ) -> None:
        self._upstream = upstream
        self._dial = dial
        self._state = state
        self._interval = interval
        self._timeout = timeout
        self._expect = expect
        self.passes = False
        """Whether the last check has passed; not before the first."""

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            error = await self._check()
            self._state.record(error)
            self.passes = error is None
            await trio.sleep(self._interval)

    async def _check(self) -> DialError | None:
        try:
            stream = await self._dial()
        except DialError as error:
            return error
        try:
            return await self._read_greeting(stream)
        finally:
            stream.abort()

    async def _read_greeting(self, stream: SocketStream) -> DialError | None:
        received = b""
        with trio.move_on_after(self._timeout):
            try:
                while len(received) < len(self._expect):
                    chunk = await stream.receive_some(len(self._expect) - len(received))
                    if not chunk:
                        break
                    received += chunk
            except trio.BrokenResourceError as error:
                return DialError(self._upstream, Cause.WRONG_ANSWER, advice=str(error))
        if received == self._expect:
            return None
        what = f"it sent {received!r}" if received else "it sent nothing"
        return DialError(
            self._upstream,
            Cause.WRONG_ANSWER,
            advice=f"{what}, not {self._expect!r}; look at the service, or correct health.expect",
        )
