"""The machine that a run stands on: a network namespace of its own, descriptors enough, CPUs shared out.

A private network namespace gives the run ports that nobody else uses, and lets it choose TCP's congestion
control: BBR, a default on some machines, paces even loopback and would measure its own timer. Nothing of it
outlives the run.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.target import Placement

IN_NAMESPACE = "HVBRIDGE_BENCH_NAMESPACE"
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
DESCRIPTORS = 100_000  # 10,000 connections through the hungriest peer, at 6 each, and room

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # linux/sockios.h, linux/if.h


def enter_namespace(module: str, arguments: Sequence[str]) -> None:
    """Start this program again inside a network namespace of its own; return if we are there, or cannot."""
    if IN_NAMESPACE in os.environ:
        _loopback_up()
        CONGESTION.write_text("reno")  # built into every kernel; with no loss on loopback it never interferes
        return
    unshare = shutil.which("unshare")
    for flags in (["--net"], ["--map-root-user", "--net"]):
        if (
            unshare
            and not subprocess.run([unshare, *flags, "true"], capture_output=True, check=False).returncode
        ):
            again = [unshare, *flags, sys.executable, "-m", module, *arguments]
            os.execve(unshare, again, {**os.environ, IN_NAMESPACE: "1"})


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def raise_descriptors() -> int:
    """As many descriptors a process as the rights of this user allow, up to what a run can need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, DESCRIPTORS), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, PermissionError):
            continue
        return wanted
    return hard


def placement(pinned: bool) -> Placement:
    """The proxy alone on the first CPU, the clients on the second, the server on a third or beside one of them."""
    cpus = sorted(os.sched_getaffinity(0))
    if not pinned or len(cpus) < 2:
        return Placement()
    first, second, *more = (frozenset({cpu}) for cpu in cpus)
    return Placement(first, second, *(more[0], more[0]) if more else (second, first))


def describe(descriptors: int, placed: Placement) -> dict[str, str]:
    """What a reader of the figures must know of the machine."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = model[0].partition(":")[2].strip() if model else platform.machine()
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} x {name}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tcp": CONGESTION.read_text().strip() if CONGESTION.exists() else "unknown",
        "network": "a namespace of its own" if IN_NAMESPACE in os.environ else "the machine's own",
        "pinned": "yes" if placed.proxy else "no",
        "descriptors": str(descriptors),
        "load average at start": f"{os.getloadavg()[0]:.2f}",
    }
