"""The AF_VSOCK lane: the bench run again inside a User-Mode Linux kernel, where CID 1 is that kernel itself.

On the bare machine AF_VSOCK may reach a real hypervisor, so nothing here connects to it there. The kernel is
booted as the tests boot theirs; the result comes back through the directory that it shares with us.
"""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.processes import ROOT
from tests.vm import uml

MODULES = ("vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback")
PATIENCE_SECONDS = 420
RESULT = Path("/run/shared/result.json")  # seen from inside


class KernelError(Exception):
    """The lane cannot run here, or its kernel gave no result; the message says why."""


def inside() -> bool:
    """Whether this very kernel is a User-Mode Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    return platform.system() == "Linux" and cpuinfo.exists() and "User Mode Linux" in cpuinfo.read_text()


def run(arguments: Sequence[str], cache: Path) -> dict[str, Any]:
    """Run `python -m bench ARGUMENTS` in the kernel, with the built generator of `cache`; what it reported."""
    if lack := uml.lack():
        raise KernelError(lack)
    command = ["env", f"XDG_CACHE_HOME={cache}", sys.executable, "-m", "bench", *arguments]
    # In /var/tmp: the kernel covers /dev and /run, where other temporary directories may be, with its own.
    with tempfile.TemporaryDirectory(prefix="bench-uml-", dir="/var/tmp") as name, contextlib.chdir(ROOT):
        shared = Path(name)
        with uml.kernel("bench", shared, MODULES, command) as kernel:
            try:
                kernel.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                raise KernelError(f"the kernel was not done after {PATIENCE_SECONDS} s") from None
        result = shared / RESULT.name
        if not result.exists():
            console = (shared / "bench.console").read_text(errors="replace").strip()
            raise KernelError(f"the kernel ended without a result; its last words: {console[-600:]}")
        reported: dict[str, Any] = json.loads(result.read_text())
        return reported


def report(result: dict[str, Any]) -> None:
    """Hand the result, from inside, to whoever waits outside."""
    RESULT.write_text(json.dumps(result))
