"""The emulator's transport: partitions and services on one machine, with Hyper-V's rules of addressing.

Implements VM and service ids, unreachable VMs, services without a listener and denied services. A carrier moves the
bytes: Unix-domain sockets, or loopback TCP on platforms without them.

Processes meet in a directory that only its owner can enter:

    DIR/host, DIR/<vm id>     a partition; a VM is running while its directory exists
    DIR/registered/<id>       a service registered on the host; contains its name
    DIR/<digest>              a listener, named by a digest of partition, scope and service, because the
                              path of a Unix socket is too short for three GUIDs
"""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import UUID

import trio

from hvbridge.address.endpoint import Endpoint, HypervEndpoint
from hvbridge.hyperv.guid import ANY, CHILDREN, HOST, LOOPBACK, PARENT, partition_text, vm_text
from hvbridge.hyperv.vms import VmState
from hvbridge.text import Problem
from hvbridge.transport.emulator.services import EmulatorRegistry
from hvbridge.transport.emulator.vms import state
from hvbridge.transport.errors import Cause, DialError, ListenError, dial_cause, listen_cause
from hvbridge.transport.listener import Listener
from hvbridge.transport.options import LONGEST_CONNECT, DialOptions, ListenOptions
from hvbridge.transport.stream import SocketStream


class Carrier(Protocol):
    """Moves bytes between two processes that meet at a path."""

    async def connect(self, path: Path, partition: UUID) -> SocketStream | None:
        """Connect from ``partition``; None if nothing listens at ``path``. Raises OSError."""

    async def listen(
        self, path: Path, where: str, options: ListenOptions, name_peer: Callable[[UUID], str]
    ) -> Listener:
        """Listen at ``path``, replacing what a dead process left there. Raises OSError."""


class EmulatorTransport:
    """Dials and listens as one partition of an emulated machine."""

    def __init__(
        self, directory: Path, partition: UUID, carrier: Carrier, *, enforce_registration: bool
    ) -> None:
        self.directory = directory
        self.partition = partition
        self._carrier = carrier
        self._enforce_registration = enforce_registration

    async def dial(self, endpoint: HypervEndpoint, options: DialOptions) -> SocketStream:
        """Connect, and return the stream, which the caller closes. Raises `DialError`.

        Without a listener it does not respond, like a Linux guest, until the caller's deadline.
        """
        if not self._may_use(endpoint.service):
            raise DialError(endpoint, Cause.NOT_PERMITTED)
        try:
            check_private_directory(self.directory)
        except FileNotFoundError:
            raise DialError(endpoint, Cause.NOT_RUNNING) from None
        except OSError as error:
            raise DialError(endpoint, Cause.NOT_PERMITTED, problem=_problem(error)) from error
        target = self._partition_reached_by(endpoint.vm)
        if target is None or not self._is_running(target):
            raise DialError(endpoint, Cause.NOT_RUNNING)
        try:
            for scope in self._scopes_that_accept(target):
                path = self._meeting_place(target, scope, endpoint.service)
                stream = await self._carrier.connect(path, self.partition)
                if stream is not None:
                    stream.vm_id = target
                    return stream
        except OSError as error:
            raise DialError(endpoint, dial_cause(endpoint, error), error) from error
        with trio.move_on_after(LONGEST_CONNECT):
            await trio.sleep_forever()
        raise DialError(endpoint, Cause.NOBODY_LISTENING)

    async def listen(self, endpoint: HypervEndpoint, options: ListenOptions) -> list[Listener]:
        """Bind and listen in this partition. Raises `ListenError`."""
        if not self._may_use(endpoint.service):
            raise ListenError(endpoint, Cause.NOT_PERMITTED)
        try:
            make_private_directory(self.directory)
            self._home(self.partition).mkdir(exist_ok=True)
            path = self._meeting_place(self.partition, endpoint.vm, endpoint.service)
            return [await self._carrier.listen(path, str(endpoint), options, self._name_peer)]
        except PermissionError as error:
            raise ListenError(endpoint, Cause.NOT_PERMITTED, problem=_problem(error)) from error
        except OSError as error:
            raise ListenError(endpoint, listen_cause(error), error) from error

    def fault(self, endpoint: Endpoint, role: str) -> Problem | None:
        """Return why this partition cannot use ``endpoint`` in that role."""
        assert isinstance(endpoint, HypervEndpoint)
        if endpoint.vm == PARENT and self.partition == HOST:
            return Problem(
                "the host has no parent",
                "write the VM's id, or set partition in [emulator] to the VM that this process emulates",
            )
        if self.partition == HOST or endpoint.vm in (ANY, PARENT, LOOPBACK):
            return None
        what = "has no children here" if endpoint.vm == CHILDREN else "can reach only its parent"
        return Problem(f"a VM {what}", "write hyperv://parent/SERVICE")

    def start_vm(self, vm: UUID) -> None:
        """Mark ``vm`` as running."""
        make_private_directory(self.directory)
        self._home(vm).mkdir(exist_ok=True)

    def _may_use(self, service: UUID) -> bool:
        if not self._enforce_registration or self.partition != HOST:
            return True
        return EmulatorRegistry(self.directory).has(service)

    def _partition_reached_by(self, vm: UUID) -> UUID | None:
        """The partition that ``vm`` stands for here; None if it cannot be reached."""
        if vm == LOOPBACK:
            return self.partition
        if self.partition == HOST:
            return None if vm == PARENT else vm
        return HOST if vm == PARENT else None  # Hyper-V connects parents and children, never siblings.

    def _scopes_that_accept(self, target: UUID) -> tuple[UUID, ...]:
        """The VM ids on which a listener in ``target`` accepts from this partition, most specific first."""
        if target == self.partition:
            return (LOOPBACK, ANY)
        if target == HOST:
            return (self.partition, CHILDREN, ANY)
        return (PARENT, ANY)

    def _name_peer(self, peer: UUID) -> str:
        if peer == self.partition:
            return "hyperv://loopback"
        return f"hyperv://{vm_text(PARENT if peer == HOST else peer)}"

    def _is_running(self, partition: UUID) -> bool:
        home = self._home(partition)
        return home.is_dir() and (partition == HOST or state(home) is VmState.RUNNING)

    def _home(self, partition: UUID) -> Path:
        return self.directory / partition_text(partition)

    def _meeting_place(self, partition: UUID, scope: UUID, service: UUID) -> Path:
        digest = hashlib.blake2b(partition.bytes + scope.bytes + service.bytes, digest_size=8)
        return self.directory / digest.hexdigest()


def _problem(error: OSError) -> Problem:
    return Problem(
        f"{error.filename}: {error.strerror}", "set dir to a directory of this user's own, with mode 0700"
    )


def make_private_directory(directory: Path) -> None:
    """Create ``directory`` private to its owner; refuse one that belongs to another user. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private_directory(directory)


def check_private_directory(directory: Path) -> None:
    """Refuse a directory in which others could take a listener's place. Raises OSError.

    A link is refused, too: whoever may change it could lead elsewhere.
    """
    if sys.platform == "win32":
        return  # a profile's directories have access lists of their own
    found = directory.lstat()
    what = ""
    if stat.S_ISLNK(found.st_mode):
        what = "is a link"
    elif found.st_uid != os.getuid():
        what = "belongs to another user"
    elif found.st_mode & 0o022:
        what = "may be written by other users"
    if what:
        raise PermissionError(errno.EPERM, f"the emulator's directory {what}", str(directory))
