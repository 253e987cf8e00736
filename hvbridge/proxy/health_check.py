"""Finds out, without a client, whether an upstream answers.

Owns: the check and its rhythm. Refuses: what follows from it (`UpstreamState` tells of changes).
"""

from collections.abc import Awaitable, Callable

import trio

from hvbridge.address.endpoint import Endpoint
from hvbridge.proxy.upstream import UpstreamState
from hvbridge.transport.errors import Cause, DialError
from hvbridge.transport.stream import SocketStream


class HealthCheck:
    """Dials ``upstream`` every ``interval`` seconds, and hears its first bytes where ``expect`` names them.

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
            return await self._hear(stream)
        finally:
            stream.abort()

    async def _hear(self, stream: SocketStream) -> DialError | None:
        heard = b""
        with trio.move_on_after(self._timeout):
            try:
                while len(heard) < len(self._expect):
                    chunk = await stream.receive_some(len(self._expect) - len(heard))
                    if not chunk:
                        break
                    heard += chunk
            except trio.BrokenResourceError as error:
                return DialError(self._upstream, Cause.WRONG_ANSWER, advice=str(error))
        if heard == self._expect:
            return None
        said = f"it said {heard!r}" if heard else "it said nothing"
        return DialError(
            self._upstream,
            Cause.WRONG_ANSWER,
            advice=f"{said}, not {self._expect!r}; look at the service, or correct health.expect",
        )
