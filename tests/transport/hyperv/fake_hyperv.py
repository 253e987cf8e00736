"""A fake of AF_HYPERV sockets for machines without them, through trio's socket factory.

It keeps CPython's rules to the letter (Modules/socketmodule.c): the protocol must be given, an address is a
tuple of two str, bad ones raise the same types, and answers come in lower case. `FakeHyperv` is the kernel:
it knows who listens, and a test scripts what a connect meets.
"""

import socket
import uuid
from collections.abc import Callable

import trio
import trio.testing

from hvbridge.transport.hyperv.windows import AF_HYPERV, HV_PROTOCOL_RAW

Address = tuple[str, str]


def winsock_error(code: int, *, from_so_error: bool = False) -> OSError:
    """The OSError of a Winsock code: from a call it has a winerror; as trio raises SO_ERROR it has none."""
    error = OSError(13 if code == 10013 and not from_so_error else code, f"winsock {code}")
    setattr(error, "winerror", None if from_so_error else code)  # noqa: B010 - typed on Windows only
    return error


class FakeHyperv(trio.abc.SocketFactory):
    """The kernel half: listeners by address, and what a connect is to meet."""

    def __init__(self) -> None:
        self.listeners: dict[Address, FakeSocket] = {}
        self.sockets: list[FakeSocket] = []
        self.on_connect: Callable[[FakeSocket], object] = lambda sock: None
        """Called at each connect; raises what the connect is to fail with, or returns an awaitable to wait for."""

    def socket(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> "FakeSocket":
        """Make a socket, as `trio.socket.socket` asks its factory to."""
        sock = FakeSocket(self, family, type, proto)
        self.sockets.append(sock)
        return sock


class FakeSocket(trio.socket.SocketType):
    """One end. Data goes through trio's memory streams."""

    def __init__(self, kernel: FakeHyperv, family: int, kind: int, proto: int) -> None:
        if (family, proto) != (AF_HYPERV, HV_PROTOCOL_RAW):
            raise winsock_error(10041 if family == AF_HYPERV else 10047)
        self._kernel = kernel
        self._family, self._kind, self._proto = family, kind, proto
        self.options: dict[tuple[int, int], int] = {}
        self.bound: Address | None = None
        self.peer: Address | None = None
        self.stream: trio.testing.MemorySendStream | None = None
        self.closed = False
        self._stream: trio.StapledStream | None = None  # type: ignore[type-arg]
        self._ended = False
        self.incoming, self._backlog = trio.open_memory_channel["FakeSocket"](1000)

    # Properties that trio's interface has.
    family = property(lambda self: self._family)
    type = property(lambda self: self._kind)
    proto = property(lambda self: self._proto)
    did_shutdown_SHUT_WR = property(lambda self: self._ended)

    def fileno(self) -> int:
        if self.closed:
            return -1
        raise NotImplementedError

    def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
        self.options[level, option] = value

    async def bind(self, address: object) -> None:
        self.bound = _check("bind", address)

    def listen(self, backlog: int = 0) -> None:
        assert self.bound is not None
        if self.bound in self._kernel.listeners:
            raise winsock_error(10048)
        self._kernel.listeners[self.bound] = self

    def getsockname(self) -> Address:
        assert self.bound is not None
        return self.bound

    async def accept(self) -> tuple["FakeSocket", Address]:
        sock = await self._backlog.receive()
        assert sock.peer is not None
        return sock, sock.peer

    async def connect(self, address: object) -> None:
        target = _check("connect", address)
        meets = self._kernel.on_connect(self)
        if meets is not None:
            await meets  # type: ignore[misc]
        await trio.lowlevel.checkpoint()
        listener = self._kernel.listeners.get(target)
        if listener is None:
            raise winsock_error(10061, from_so_error=True)
        accepted = FakeSocket(self._kernel, *(self._family, self._kind, self._proto))
        self._stream, accepted._stream = trio.testing.memory_stream_pair()
        self.peer = target
        accepted.peer = (str(uuid.UUID(int=7)), target[1])
        listener.incoming.send_nowait(accepted)

    async def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        assert self._stream is not None
        data = await self._stream.receive_some(nbytes or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        assert self._stream is not None
        await self._stream.send_all(bytes(data))
        return len(data)

    def shutdown(self, how: int) -> None:
        assert self._stream is not None
        assert how == socket.SHUT_WR
        self._ended = True
        self._stream.send_stream.close()

    def close(self) -> None:
        self.closed = True
        if self._kernel.listeners.get(self.bound or ("", "")) is self:
            del self._kernel.listeners[self.bound]  # type: ignore[arg-type]
        if self._stream is not None:
            self._stream.send_stream.close()
            self._stream.receive_stream.close()


def _check(caller: str, address: object) -> Address:
    """Take an address as CPython does, and give it back as Windows prints it."""
    if not isinstance(address, tuple):
        raise TypeError(f"{caller}(): AF_HYPERV address must be tuple, not {type(address).__name__}")
    if len(address) != 2 or not all(isinstance(part, str) for part in address):
        raise TypeError("AF_HYPERV address must be a str tuple (vm_id, service_id)")
    for part, name in zip(address, ("vm_id", "service_id"), strict=True):
        # UuidFromString takes 8-4-4-4-12 and no braces.
        if len(part) != 36 or [len(group) for group in part.split("-")] != [8, 4, 4, 4, 12]:
            raise ValueError(f"{caller}(): AF_HYPERV address {name} is not a valid UUID string")
        uuid.UUID(part)
    return address[0].lower(), address[1].lower()
