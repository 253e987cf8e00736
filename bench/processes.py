"""A child process with its descendants: started, accounted for, ended.

Each child leads a session of its own, so its descendants (the forks of socat, nginx's worker) are all processes
of that session, and ending it can hit nobody else. Accounts are read from /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).parents[1]  # children run here, so that `-m hvbridge` is the one beside this bench
STOP_SECONDS = 3.0  # to end after SIGTERM, before SIGKILL
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Child:
    """A started program. As a context manager it is ended on the way out, with all it has forked."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        cpus: Collection[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=ROOT, start_new_session=True
        )
        self.pin(cpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def pin(self, cpus: Collection[int]) -> None:
        """Keep the process, and what it will fork, on these CPUs; none means anywhere it is now."""
        if cpus:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self.pid, cpus)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for whatever of the session is left."""
        if self.process.stdin:
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for ours in (self.process.stdout, self.process.stderr):
            if ours:
                ours.close()

    def family(self) -> Iterator[tuple[Path, list[str]]]:
        """The processes of the session: /proc directory, and the fields of `stat` from the state on."""
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    # The name, in brackets, may hold anything: what counts begins after the last bracket.
                    fields = (directory / "stat").read_text().rpartition(")")[2].split()
                    if fields[3] == str(self.pid):
                        yield directory, fields

    def cpu_seconds(self) -> float:
        """CPU time of the living, to the nanosecond, and of children already waited for, to the tick."""
        total = 0.0
        for directory, fields in self.family():
            try:
                tasks = list((directory / "task").iterdir())
                total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
            except (OSError, IndexError):  # a kernel without scheduler statistics
                total += (int(fields[11]) + int(fields[12])) / TICKS
            total += (int(fields[13]) + int(fields[14])) / TICKS
        return total

    def memory_kib(self) -> int:
        """Proportional set size: pages that processes share are counted once. The kernel's own memory is not."""
        total = 0
        for directory, _ in self.family():
            with contextlib.suppress(OSError):
                for line in (directory / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total

    def open_fds(self) -> int:
        total = 0
        for directory, _ in self.family():
            with contextlib.suppress(OSError):
                total += len(list((directory / "fd").iterdir()))
        return total
