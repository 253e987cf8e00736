"""The facts of a machine, as the checks ask for them.

Owns: running the system's programs and reading its files, with a bound on the time. Refuses: what they mean.
"""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import python_implementation, python_version

import trio

from hvbridge.hyperv.process import Run, run_program

_PATIENCE = 15.0
"""Seconds for a program of the system to answer; each of them takes well under one."""

_ENCODING = "oem" if sys.platform == "win32" else "utf-8"

_IOCTL_GET_LOCAL_CID = 0x7B9
"""IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h."""


@dataclass(frozen=True, slots=True)
class Printed:
    """What a program printed on standard output, and the code that it ended with."""

    code: int
    text: str


async def _run_system_program(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run a program of the system, never one of its name in the directory that happens to be the current one."""
    name, *arguments = command
    if sys.platform == "win32":
        name = str(Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", name))
    return await run_program([name, *arguments])


@dataclass(frozen=True)
class Machine:
    """A machine; without arguments, this one."""

    platform: str = sys.platform
    python: str = f"{python_implementation()} {python_version()}"
    families: frozenset[str] = frozenset(
        family for family in ("AF_HYPERV", "AF_VSOCK") if hasattr(socket, family)
    )
    """The address families of which Python knows."""
    root: Path = Path("/")
    """Where its file system begins."""
    run: Run = _run_system_program

    async def printed_by(self, *command: str) -> Printed | None:
        """Run a program; None when it is not there, or does not end."""
        try:
            with trio.fail_after(_PATIENCE):
                done = await self.run(command)
        except (OSError, trio.TooSlowError):
            return None
        encoding = "utf-16-le" if b"\0" in done.stdout else _ENCODING  # which wsl.exe prints
        return Printed(done.returncode, done.stdout.decode(encoding, "replace"))

    def path(self, path: str) -> Path:
        """Return where the absolute ``path`` of that machine is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """Read a file; "" when it cannot be read."""
        try:
            return self.path(path).read_text("utf-8", "replace")
        except OSError:
            return ""

    def local_cid(self) -> int:
        """Return the CID that AF_VSOCK has here. Raises OSError."""
        if sys.platform == "win32":
            raise OSError("AF_VSOCK is there on Linux only")
        import fcntl

        with self.path("/dev/vsock").open("rb", buffering=0) as device:
            answer = fcntl.ioctl(device, _IOCTL_GET_LOCAL_CID, bytes(4))
        return int(struct.unpack("=I", answer)[0])
