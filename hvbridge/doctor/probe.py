"""Gathers facts about a machine: runs system programs, with a timeout, and reads files. The checks interpret them."""

import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from platform import python_implementation, python_version

import trio

from hvbridge.hyperv.process import Run, run_program

_PROGRAM_TIMEOUT = 15.0
"""Seconds for a system program to finish; each takes well under one."""

_ENCODING = "oem" if sys.platform == "win32" else "utf-8"

_IOCTL_GET_LOCAL_CID = 0x7B9
"""IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A program's exit code and standard output."""

    code: int
    text: str


@dataclass(frozen=True)
class Machine:
    """A machine; without arguments, this one."""

    platform: str = sys.platform
    python: str = f"{python_implementation()} {python_version()}"
    families: frozenset[str] = frozenset(
        family for family in ("AF_HYPERV", "AF_VSOCK") if hasattr(socket, family)
    )
    """The address families that Python has."""
    root: Path = Path("/")
    """The root of its file system."""
    run: Run = run_program

    async def printed_by(self, *command: str) -> Printed | None:
        """Run a program; None if it does not exist or does not finish in time."""
        try:
            with trio.fail_after(_PROGRAM_TIMEOUT):
                done = await self.run(command)
        except (OSError, trio.TooSlowError):
            return None
        encoding = "utf-16-le" if b"\0" in done.stdout else _ENCODING  # as from wsl.exe
        return Printed(done.returncode, done.stdout.decode(encoding, "replace"))

    def path(self, path: str) -> Path:
        """Return ``path``, absolute on that machine, below `root`."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """Read a file; "" if it cannot be read."""
        try:
            return self.path(path).read_text("utf-8", "replace")
        except OSError:
            return ""

    def local_cid(self) -> int:
        """Return the local AF_VSOCK CID. Raises OSError."""
        if sys.platform == "win32":
            raise OSError("AF_VSOCK exists only on Linux")
        import fcntl

        with self.path("/dev/vsock").open("rb", buffering=0) as device:
            answer = fcntl.ioctl(device, _IOCTL_GET_LOCAL_CID, bytes(4))
        return int(struct.unpack("=I", answer)[0])
