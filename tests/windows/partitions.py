"""A host and its VMs, as the DLL of shim/ plays them, made and entered by a test.

Owns: the variables and files of that DLL. Refuses: sockets, and the registry, which all tests of a run share:
a service that one registers must be its own.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import trio

needs_partitions = pytest.mark.skipif(
    "HVSHIM_DIR" not in os.environ, reason="needs VMs to connect to, which tests/windows/run plays"
)

HOST = None
GUEST = UUID("6a0c8e2e-0b52-4f3c-9d1f-2f6a3a0b7c11")
OTHER = UUID("0d9c3a7e-5a43-4f43-8a0e-3a0a5f2e9b22")

PEER = Path(__file__).with_name("peer.py")


class Partitions:
    """The partitions of one test, which starts on the host and with no VM."""

    def __init__(self, directory: Path, environment: pytest.MonkeyPatch) -> None:
        directory.mkdir()
        self._directory = directory
        self._environment = environment
        environment.setenv("HVSHIM_DIR", str(directory))

    def run(self, vm: UUID, *, silent: bool = False, exact: bool = False) -> None:
        """Let ``vm`` run; ``silent`` as a Linux guest is where nobody listens, ``exact`` as WSL2 dials."""
        home = self._directory / str(vm)
        home.mkdir(exist_ok=True)
        for name, wanted in {"silent": silent, "exact": exact}.items():
            if wanted:
                (home / name).touch()

    def enter(self, partition: UUID | None) -> None:
        """Let what this process binds and connects from now on do so in ``partition``."""
        if partition is HOST:
            self._environment.delenv("HVSHIM_PARTITION", raising=False)
        else:
            self._environment.setenv("HVSHIM_PARTITION", str(partition))

    def require_registration(self) -> None:
        """Let the host refuse services that its registry does not hold."""
        self._environment.setenv("HVSHIM_REGISTRY", "1")

    def forbid_waiting_for_connects(self) -> None:
        """Let the wait for a non-blocking connect fail."""
        self._environment.setenv("HVSHIM_UNPOLLABLE", "1")

    def abolish_hyperv(self) -> None:
        """Let this be a Windows without Hyper-V."""
        self._environment.delenv("HVSHIM_DIR")

    @asynccontextmanager
    async def program(
        self, partition: UUID | None, command: str, vm: UUID, service: UUID
    ) -> AsyncIterator[trio.Process]:
        """Run peer.py in ``partition``, ready on entry and killed on exit."""
        environ = {name: value for name, value in os.environ.items() if name != "HVSHIM_PARTITION"}
        if partition is not HOST:
            environ["HVSHIM_PARTITION"] = str(partition)
        line = [sys.executable, str(PEER), command, str(vm), str(service)]
        start = partial(trio.run_process, line, env=environ, stdout=subprocess.PIPE, check=False)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start)
            assert await process.stdout.receive_some(64) == b"ready\n"
            yield process
            process.kill()
