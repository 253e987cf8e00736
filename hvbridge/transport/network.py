"""Chooses the transport for each endpoint, by platform, and sets the deadline of every dial.

This is the only place that chooses by platform.
"""

import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from hvbridge.address.endpoint import (
    Endpoint,
    HypervEndpoint,
    NamedHypervEndpoint,
    SystemdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    VsockEndpoint,
)
from hvbridge.hyperv.constants import is_linux_guest
from hvbridge.hyperv.guid import HOST, parse_partition
from hvbridge.hyperv.services import ServiceRegistry
from hvbridge.hyperv.vms import VmDirectory
from hvbridge.hyperv.vms.resolver import VmResolver
from hvbridge.text import Problem
from hvbridge.transport import tcp
from hvbridge.transport.base import Role, Transport
from hvbridge.transport.errors import Cause, DialError, ListenError
from hvbridge.transport.hyperv.by_name import NamedHypervTransport
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream

_TO_EMULATE = (
    "to emulate it, set dir under [emulator] in the config, or HVBRIDGE_EMULATOR=DIR in the environment"
)


class Network:
    """Dials and listens on endpoints of every scheme, on the real machine or an emulated one.

    ``vms`` is the directory of this host's VMs, and ``services`` its service registry; None unless it is a host.
    """

    def __init__(
        self, hyperv: Transport, vms: VmDirectory | None = None, services: ServiceRegistry | None = None
    ) -> None:
        self.vms = vms
        self.services = services
        self._resolver = None if vms is None else VmResolver(vms)
        self._transports: dict[type[Endpoint], Transport] = {
            TcpEndpoint: tcp,
            UnixEndpoint: _unix(),
            VsockEndpoint: _vsock(),
            HypervEndpoint: hyperv,
            NamedHypervEndpoint: NamedHypervTransport(hyperv, self._resolver),
            SystemdEndpoint: _systemd(),
        }
        self._connect_nowait: dict[type[Endpoint], Callable[[Any, DialOptions], SocketStream | None]] = {
            TcpEndpoint: tcp.connect_nowait
        }
        if sys.platform != "win32":
            from hvbridge.transport import unix

            self._connect_nowait[UnixEndpoint] = unix.connect_nowait

    async def dial(self, endpoint: Endpoint, options: DialOptions) -> SocketStream:
        """Connect within ``options.timeout`` seconds, and return the stream, which the caller closes.

        Raises `DialError`.
        """
        with trio.move_on_after(options.timeout):
            return await self._transports[type(endpoint)].dial(endpoint, options)
        # A Hyper-V guest or vsock peer without a listener does not respond.
        silent = isinstance(endpoint, HypervEndpoint | NamedHypervEndpoint | VsockEndpoint)
        raise DialError(endpoint, Cause.NOBODY_LISTENING if silent else Cause.TIMED_OUT)

    def connector_nowait(self, endpoint: Endpoint, options: DialOptions) -> Callable[[], SocketStream | None]:
        """Return a function that connects and returns the stream, which the caller closes, or None if it would block.

        Connecting within this machine rarely blocks, so it can skip the deadline, which costs more than the rest. The
        function raises `DialError`.
        """
        connect_nowait = self._connect_nowait.get(type(endpoint), _never)
        return partial(connect_nowait, endpoint, options)

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> list[Listener]:
        """Bind and listen; the caller closes the listeners. Raises `ListenError`."""
        return await self._transports[type(endpoint)].listen(endpoint, options)

    async def vm_of(self, endpoint: Endpoint, *, start: bool) -> UUID:
        """Return the id of the VM of ``endpoint``; asking may ``start`` WSL. Raises `VmError` for an unknown name."""
        if isinstance(endpoint, NamedHypervEndpoint):
            assert self._resolver is not None
            return await self._resolver.resolve(endpoint.vm, start=start)
        assert isinstance(endpoint, HypervEndpoint)
        return endpoint.vm

    def fault(self, endpoint: Endpoint, role: Role) -> Problem | None:
        """Say why ``endpoint`` cannot be used in ``role`` on this machine; None when it can."""
        return self._transports[type(endpoint)].fault(endpoint, role)


def _never(endpoint: Endpoint, options: DialOptions) -> None:
    """Say that a dial must wait."""


class _Unavailable:
    """Stands for the endpoints of a scheme that this machine cannot have."""

    def __init__(self, what: str, advice: str) -> None:
        self._problem = Problem(what, advice)

    async def dial(self, endpoint: Endpoint, options: DialOptions) -> SocketStream:
        raise DialError(endpoint, Cause.UNAVAILABLE, problem=self._problem)

    async def listen(self, endpoint: Endpoint, options: ListenOptions) -> list[Listener]:
        raise ListenError(endpoint, Cause.UNAVAILABLE, problem=self._problem)

    def fault(self, endpoint: Endpoint, role: Role) -> Problem | None:
        return self._problem


def native_network() -> Network:
    """Return the network of the real machine: Windows, a Linux guest of Hyper-V, or neither."""
    return Network(_native_hyperv(), _native_vms(), _native_services())


def emulated_network(directory: Path, partition: UUID, *, enforce_registration: bool) -> Network:
    """Return a network whose hyperv endpoints lead to other processes that use ``directory``."""
    # Imported here, because a machine with Hyper-V does not need them.
    from hvbridge.transport.emulator.services import EmulatorRegistry
    from hvbridge.transport.emulator.transport import EmulatorTransport
    from hvbridge.transport.emulator.vms import EmulatorDirectory

    if sys.platform == "win32":
        from hvbridge.transport.emulator import tcp as carrier
    else:
        from hvbridge.transport.emulator import unix as carrier
    transport = EmulatorTransport(directory, partition, carrier, enforce_registration=enforce_registration)
    if partition != HOST:
        return Network(transport)
    return Network(transport, EmulatorDirectory(directory), EmulatorRegistry(directory))


def network_from_environment(environ: Mapping[str, str]) -> Network:
    """Return the emulated network of HVBRIDGE_EMULATOR and HVBRIDGE_PARTITION, else that of the real machine.

    Raises ValueError for a partition that is neither ``host`` nor a GUID.
    """
    directory = environ.get("HVBRIDGE_EMULATOR")
    if not directory:
        return native_network()
    try:
        partition = parse_partition(environ.get("HVBRIDGE_PARTITION") or "host")
    except ValueError as error:
        raise ValueError(f"HVBRIDGE_PARTITION: {error}") from None
    return emulated_network(Path(directory), partition, enforce_registration=False)


def _native_hyperv() -> Transport:
    if sys.platform == "win32":
        if not hasattr(socket, "AF_HYPERV"):
            version = ".".join(map(str, sys.version_info[:3]))
            return _Unavailable(
                f"Python {version} has no Hyper-V sockets", "run hvbridge on CPython 3.12 or later"
            )
        from hvbridge.transport.hyperv.windows import HypervTransport

        return HypervTransport()
    if sys.platform == "linux" and is_linux_guest():
        from hvbridge.transport.hyperv.linux_guest import HypervGuestTransport

        return HypervGuestTransport()
    return _Unavailable("this machine has no Hyper-V", _TO_EMULATE)


def _native_vms() -> VmDirectory | None:
    if sys.platform != "win32":
        return None
    from hvbridge.hyperv.vms.powershell import PowerShellDirectory

    return PowerShellDirectory()


def _native_services() -> ServiceRegistry | None:
    if sys.platform != "win32":
        return None
    from hvbridge.hyperv.services.windows import WindowsRegistry

    return WindowsRegistry()


def _unix() -> Transport:
    if sys.platform == "win32":
        return _Unavailable("Python has no Unix-domain sockets on Windows", "write tcp://127.0.0.1:PORT")
    from hvbridge.transport import unix

    return unix


def _vsock() -> Transport:
    if sys.platform != "linux":
        return _Unavailable("AF_VSOCK exists only on Linux", "write hyperv://VM/SERVICE")
    from hvbridge.transport import vsock

    return vsock


def _systemd() -> Transport:
    if sys.platform == "linux":
        from hvbridge.transport.socket_activation import SystemdTransport, inherited_sockets

        return SystemdTransport(inherited_sockets)
    return _Unavailable("systemd exists only on Linux", "write tcp://127.0.0.1:PORT")
