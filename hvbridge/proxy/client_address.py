"""Who a client is, where proxies stand between: read from the PROXY header of one in front, sent on to the upstream."""

from collections.abc import Sequence
from uuid import UUID

import trio

from hvbridge.address.client_id import Network
from hvbridge.hyperv.guid import HOST
from hvbridge.proxy import proxy_protocol
from hvbridge.proxy.access_list import AccessList
from hvbridge.transport.stream import HANDSHAKE_TIMEOUT, HandshakeError, SocketStream


class ProxyHeader:
    """PROXY protocol, both ways: taken from clients in ``trusted``, sent if there is a ``version``.

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
        self._trusted = AccessList(trusted)
        self._version = version
        self._forward = forward
        self._upstream_vm = upstream_vm

    async def receive(self, client: SocketStream) -> proxy_protocol.Received | None:
        """Let ``client`` be who a trusted proxy says it is, and return what that said. Raises `HandshakeError`."""
        if not isinstance(client.client_id, str) or not self._trusted.allows(client.client_id):
            return None
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                received = await proxy_protocol.receive(client)
        except trio.TooSlowError:
            raise HandshakeError("the fronting proxy sent no complete PROXY header in time") from None
        except proxy_protocol.ProxyProtocolError as error:
            raise HandshakeError(str(error)) from error
        if received.source is None:  # it speaks for itself, as for a health check of its own
            return None
        client.client_id = received.source.host
        client.peer = str(received.source).removeprefix("tcp://")
        return received

    async def send(
        self, client: SocketStream, received: proxy_protocol.Received | None, upstream: SocketStream
    ) -> None:
        """Tell ``upstream`` who ``client`` is, after what was ``received``; it is aborted when that fails.

        Raises trio.BrokenResourceError.
        """
        if self._version is None:
            return
        try:
            addresses = (
                (received.source, received.destination) if received else proxy_protocol.addresses(client)
            )
            vm = self._upstream_vm
            if isinstance(client.client_id, UUID) and client.client_id != HOST:
                vm = client.client_id
            header = proxy_protocol.header(self._version, *addresses, vm=vm, forward=self._forward)
            await upstream.send_all(header)
        except BaseException:
            upstream.abort()
            raise
