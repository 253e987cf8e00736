"""hyperv endpoints in a Linux guest, where Hyper-V sockets are AF_VSOCK over hv_sock.

Translates VM and service GUIDs to CIDs and ports. From net/vmw_vsock/hyperv_transport.c: host and guest only, services
of the vsock template only, CID 2 is the host, and listeners bind the wildcard CID.
"""

from hvbridge.address.endpoint import Endpoint, HypervEndpoint, VsockEndpoint
from hvbridge.hyperv.constants import VMADDR_CID_ANY, VMADDR_CID_HOST, VMADDR_CID_LOCAL
from hvbridge.hyperv.guid import ANY, LOOPBACK, PARENT, port_of_service_id
from hvbridge.text import Problem
from hvbridge.transport import vsock
from hvbridge.transport.errors import DialError, ListenError
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

_CID_OF = {
    "connect": {PARENT: VMADDR_CID_HOST, LOOPBACK: VMADDR_CID_LOCAL},
    "listen": {ANY: VMADDR_CID_ANY, PARENT: VMADDR_CID_ANY, LOOPBACK: VMADDR_CID_LOCAL},
}


class HypervGuestTransport:
    """Dials and listens on the Linux guest side of Hyper-V sockets."""

    async def dial(self, endpoint: HypervEndpoint, options: DialOptions) -> SocketStream:
        """Connect over AF_VSOCK, and return the stream, which the caller closes. Raises `DialError`."""
        try:
            return await vsock.dial(_translate(endpoint, "connect"), options)
        except DialError as error:
            raise DialError(endpoint, error.cause, error.error) from error

    async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[Listener]:
        """Bind and listen over AF_VSOCK. Raises `ListenError`."""
        try:
            return await vsock.listen(_translate(endpoint, "listen"), options)
        except ListenError as error:
            raise ListenError(endpoint, error.cause, error.error, error.advice) from error

    def fault(self, endpoint: Endpoint, role: str) -> Problem | None:
        """Return why a Linux guest cannot use ``endpoint`` in that role."""
        assert isinstance(endpoint, HypervEndpoint)
        if port_of_service_id(endpoint.service) is None:
            return Problem(
                f"a Linux guest has only services of the vsock template, and {endpoint.service} is not one",
                "write a port number here, and its GUID (hvbridge guid PORT) on the other side",
            )
        if endpoint.vm not in _CID_OF[role]:
            return Problem("a Linux guest can reach only its host", "write hyperv://parent/SERVICE")
        return None


def _translate(endpoint: HypervEndpoint, role: str) -> VsockEndpoint:
    port = port_of_service_id(endpoint.service)
    assert port is not None  # `fault` has checked this
    return VsockEndpoint(_CID_OF[role][endpoint.vm], port)
