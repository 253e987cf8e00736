"""Who a client is, where proxies stand between: heard from the one in front, and told to the upstream.

Owns: whose word is taken, and what is passed on. Refuses: the form of a header (`proxy_protocol`).
"""

from collections.abc import Sequence
from uuid import UUID

import trio

from hvbridge import ids, proxy_protocol
from hvbridge.sources import Network, Sources
from hvbridge.stream import SocketStream
from hvbridge.transport.sockets import HANDSHAKE_TIMEOUT, HandshakeError


class Introduction:
    """PROXY protocol, both ways: believed when a client from ``trusted`` sends it, sent if there is a ``version``.

    ``forward`` is the name that the upstream is told, ``upstream_vm`` the VM where the client is none itself.
    """

    def __init__(
        self,
        trusted: Sequence[Network] = (),
        version: proxy_protocol.Version | None = None,
        *,
        forward: str = "",
        upstream_vm: UUID | None = None,
    ) -> None:
        self._trusted = Sources(trusted)
        self._version = version
        self._forward = forward
        self._upstream_vm = upstream_vm

    async def hear(self, client: SocketStream) -> proxy_protocol.Received | None:
        """Let ``client`` be who a trusted proxy says it is, and return what that said. Raises `HandshakeError`."""
        if not isinstance(client.origin, str) or not self._trusted.admits(client.origin):
            return None
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                received = await proxy_protocol.receive(client)
        except trio.TooSlowError:
            raise HandshakeError("the fronting proxy sent no whole PROXY header in time") from None
        except proxy_protocol.ProxyProtocolError as error:
            raise HandshakeError(str(error)) from error
        if received.source is None:  # it speaks for itself, as for a health check of its own
            return None
        client.origin = received.source.host
        client.peer = str(received.source).removeprefix("tcp://")
        return received

    async def tell(
        self, client: SocketStream, heard: proxy_protocol.Received | None, upstream: SocketStream
    ) -> None:
        """Tell ``upstream`` who ``client`` is, after what was ``heard``; it is aborted when that fails.

        Raises trio.BrokenResourceError.
        """
        if self._version is None:
            return
        try:
            said = (heard.source, heard.destination) if heard else proxy_protocol.addresses(client)
            vm = self._upstream_vm
            if isinstance(client.origin, UUID) and client.origin != ids.HOST:
                vm = client.origin
            await upstream.send_all(proxy_protocol.header(self._version, *said, vm=vm, forward=self._forward))
        except BaseException:
            upstream.abort()
            raise
