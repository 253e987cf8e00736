"""A switch between the vsock devices of several kernels.

Run as vsock_switch.py CID=SOCKET [CID=SOCKET ...]

Each kernel is a vhost-user front end that connects to its own Unix socket, shares its memory, and finds the
virtio-vsock device of that CID there. A packet goes to the device of its destination CID. One to a CID that nobody
has is dropped, so that whoever dials it hears nothing. Ends when all kernels have gone.

Sources: the vhost-user protocol (QEMU, docs/interop/vhost-user.rst), and the virtio specification 1.2: split
virtqueues (2.7) and the socket device (5.10). Ring indexes are read and written in one access each, and in an
order that x86 keeps between processors.
"""

import mmap
import os
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

assert sys.platform == "linux"


class Request(IntEnum):
    """What a front end asks, as far as it matters here."""

    GET_FEATURES = 1
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    GET_PROTOCOL_FEATURES = 15
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24


FEATURES = 1 << 30 | 1 << 32
"""VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1."""
PROTOCOL_FEATURES = 1 << 3 | 1 << 5 | 1 << 9
"""REPLY_ACK, BACKEND_REQ, CONFIG."""
MESSAGE = struct.Struct("<III")  # request, flags, size of the body
VERSION, IS_REPLY, NEED_REPLY = 1, 1 << 2, 1 << 3
NO_FD = 1 << 8
MAX_FDS = 8

PACKET = struct.Struct("<QQIIIHHIII")  # source and destination CID, ports, length; type, op, flags; credit
LENGTH = 4  # the field's place among PACKET's
DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
HAS_NEXT = 1
NO_INTERRUPT = 1
RECEIVE, TRANSMIT, EVENT = 0, 1, 2

Chain = list[memoryview]


class Memory:
    """What a kernel shares of its memory, by its own addresses and by those of its process."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, memoryview]] = []

    def add(self, guest: int, user: int, size: int, offset: int, fd: int) -> None:
        """Map ``size`` bytes at ``offset`` of ``fd``, and close it."""
        view = memoryview(mmap.mmap(fd, offset + size))[offset:]
        os.close(fd)
        self._regions.append((guest, user, view))

    def at(self, address: int, size: int, *, user: bool = False) -> memoryview:
        """Return the bytes at ``address``. Raises ValueError for memory that is not shared."""
        for guest_start, user_start, view in self._regions:
            start = address - (user_start if user else guest_start)
            if 0 <= start <= len(view) - size:
                return view[start : start + size]
        raise ValueError(f"{size} bytes at {address:#x} are not shared")


class Ring:
    """A split virtqueue, from the device's side."""

    def __init__(self) -> None:
        self.size = 0
        self.next = 0
        """Counts the chains taken, modulo 2**16."""
        self.kick = self.call = -1
        self.ready = False

    def place(self, memory: Memory, descriptors: int, used: int, available: int) -> None:
        """Find the ring's parts in ``memory``, by addresses of the kernel's process."""
        self._memory = memory
        self._descriptors = memory.at(descriptors, DESCRIPTOR.size * self.size, user=True)
        self._used = memory.at(used, 4 + 8 * self.size, user=True)
        self._used_index = self._used[2:4].cast("H")
        self._available = memory.at(available, 4 + 2 * self.size, user=True).cast("H")  # flags, index, heads
        self.ready = True

    def take(self) -> tuple[int, Chain] | None:
        """Take the next chain of buffers; None when the kernel has offered no more."""
        if self._available[1] == self.next:
            return None
        head = index = self._available[2 + self.next % self.size]
        self.next = (self.next + 1) & 0xFFFF
        chain: Chain = []
        flags = HAS_NEXT
        while flags & HAS_NEXT:
            address, length, flags, following = DESCRIPTOR.unpack_from(
                self._descriptors, DESCRIPTOR.size * index
            )
            chain.append(self._memory.at(address, length))
            index = following
        return head, chain

    def give_back(self, head: int, written: int) -> None:
        """Give a chain back, with ``written`` bytes in it."""
        count = self._used_index[0]
        struct.pack_into("<II", self._used, 4 + 8 * (count % self.size), head, written)
        self._used_index[0] = (count + 1) & 0xFFFF

    def interrupt(self) -> None:
        """Tell the kernel of what was given back, unless it looks by itself."""
        if self.call >= 0 and not self._available[0] & NO_INTERRUPT:
            with suppress(BlockingIOError):  # told often enough
                os.write(self.call, struct.pack("<Q", 1))


class Device:
    """The vsock of one kernel."""

    def __init__(self, switch: "Switch", cid: int, path: str) -> None:
        self._switch = switch
        self._cid = cid
        self._memory = Memory()
        self._rings = [Ring(), Ring(), Ring()]
        self.waiting: deque[tuple[list[int], memoryview]] = deque()
        """Packets to the kernel, header fields and data. The vsock's own credit keeps them few."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            self._listener = listener.dup()
        switch.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        self._front_end, _ = self._listener.accept()
        self._switch.forget(self._listener.fileno())
        self._switch.watch(self._front_end.fileno(), self._serve)

    # The control channel.

    def _serve(self) -> None:
        head, fds, _, _ = socket.recv_fds(self._front_end, MESSAGE.size, MAX_FDS)
        if not head:
            self._switch.leave(self._cid)
            for watched in [self._front_end.fileno(), *(ring.kick for ring in self._rings if ring.kick >= 0)]:
                self._switch.forget(watched)
            return
        request, flags, size = MESSAGE.unpack(head)
        body = self._front_end.recv(size, socket.MSG_WAITALL) if size else b""
        answer = self._answer(request, body, fds)
        if answer is None and flags & NEED_REPLY:
            answer = struct.pack("<Q", 0)
        if answer is not None:
            self._front_end.sendall(MESSAGE.pack(request, VERSION | IS_REPLY, len(answer)) + answer)
        if request in (Request.SET_VRING_KICK, Request.SET_VRING_ENABLE):
            self._transmitted()
            self.deliver()

    def _answer(self, request: int, body: bytes, fds: list[int]) -> bytes | None:
        match request:
            case Request.GET_FEATURES:
                return struct.pack("<Q", FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return struct.pack("<Q", PROTOCOL_FEATURES)
            case Request.GET_CONFIG:
                offset, size, flags = struct.unpack_from("<III", body)
                config = struct.pack("<Q", self._cid).ljust(offset + size, b"\0")
                return struct.pack("<III", offset, size, flags) + config[offset : offset + size]
            case Request.SET_MEM_TABLE:
                for place, fd in enumerate(fds):
                    guest, size, user, offset = struct.unpack_from("<QQQQ", body, 8 + 32 * place)
                    self._memory.add(guest, user, size, offset, fd)
            case Request.SET_VRING_NUM:
                index, number = struct.unpack("<II", body)
                self._rings[index].size = number
            case Request.SET_VRING_BASE:
                index, number = struct.unpack("<II", body)
                self._rings[index].next = number
            case Request.SET_VRING_ADDR:
                index, _, descriptors, used, available, _ = struct.unpack("<IIQQQQ", body)
                self._rings[index].place(self._memory, descriptors, used, available)
            case Request.GET_VRING_BASE:
                index, _ = struct.unpack("<II", body)
                self._rings[index].ready = False
                return struct.pack("<II", index, self._rings[index].next)
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL:
                (value,) = struct.unpack("<Q", body)
                index, fd = value & 0xFF, -1 if value & NO_FD else fds[0]
                if request == Request.SET_VRING_CALL:
                    self._rings[index].call = fd
                elif fd >= 0:
                    self._rings[index].kick = fd
                    self._switch.watch(
                        fd, {RECEIVE: self.deliver, TRANSMIT: self._transmitted}.get(index), drain=True
                    )
            case _:
                pass  # and SET_BACKEND_REQ_FD, whose descriptor User-Mode Linux wants kept open
        return None

    # Packets.

    def _transmitted(self) -> None:
        """Pass on what the kernel has sent."""
        ring = self._rings[TRANSMIT]
        if not ring.ready:
            return
        towards: set[Device] = set()
        while (taken := ring.take()) is not None:
            head, chain = taken
            packet = memoryview(b"".join(chain))
            ring.give_back(head, 0)
            fields = list(PACKET.unpack_from(packet))
            destination = self._switch.devices.get(fields[1])
            if destination is not None:
                destination.waiting.append((fields, packet[PACKET.size :]))
                towards.add(destination)
        ring.interrupt()
        for destination in towards:
            destination.deliver()

    def deliver(self) -> None:
        """Give the kernel what waits for it, in as many pieces as its buffers are short."""
        ring = self._rings[RECEIVE]
        if not ring.ready:
            return
        while self.waiting and (taken := ring.take()) is not None:
            head, chain = taken
            fields, data = self.waiting.popleft()
            room = sum(map(len, chain)) - PACKET.size
            if len(data) > room:
                self.waiting.appendleft((fields, data[room:]))
                data = data[:room]
            fields[LENGTH] = len(data)
            packet = memoryview(PACKET.pack(*fields) + data)
            start = 0
            for part in chain:
                piece = packet[start : start + len(part)]
                part[: len(piece)] = piece
                start += len(piece)
            ring.give_back(head, len(packet))
        ring.interrupt()


class Switch:
    """The devices by CID, and the loop that serves them."""

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        self._selector = selectors.DefaultSelector()

    def run(self, sockets: dict[int, str]) -> None:
        """Serve a device on each socket, until all kernels have gone."""
        self.devices = {cid: Device(self, cid, path) for cid, path in sockets.items()}
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while self.devices:
            for key, _ in self._selector.select():
                if key.fd in self._selector.get_map():  # else forgotten by what came before it
                    key.data()

    def watch(self, fd: int, act: Callable[[], None] | None, *, drain: bool = False) -> None:
        """Call ``act`` whenever ``fd`` is readable; ``drain`` it before, if it is an eventfd."""

        def drained() -> None:
            with suppress(BlockingIOError):
                os.read(fd, 8)
            if act is not None:
                act()

        if drain:
            os.set_blocking(fd, False)
        self._selector.register(fd, selectors.EVENT_READ, drained if drain else act)

    def forget(self, fd: int) -> None:
        """Watch ``fd`` no longer."""
        self._selector.unregister(fd)

    def leave(self, cid: int) -> None:
        """Drop the device of ``cid``, whose kernel has gone."""
        del self.devices[cid]


if __name__ == "__main__":
    places = (argument.partition("=") for argument in sys.argv[1:])
    Switch().run({int(cid): path for cid, _, path in places})
