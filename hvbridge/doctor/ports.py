"""Finds the process that listens on an address, from /proc, `ss`, `netstat`, `tasklist` and `netsh`."""

import csv
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from hvbridge.address.endpoint import (
    Endpoint,
    EndpointError,
    HypervEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    parse_endpoint,
)
from hvbridge.address.placement import collide
from hvbridge.doctor.probe import Machine
from hvbridge.hyperv.guid import port_of_service_id

_LISTEN = "0A"
"""TCP_LISTEN of net/tcp_states.h, as /proc/net/tcp writes it."""
_ACCEPTS = 0x10000
"""__SO_ACCEPTCON of linux/net.h among the flags of /proc/net/unix."""


class Holder(NamedTuple):
    """A process that listens."""

    pid: int
    program: str
    """Its name; for svchost.exe, also the services in it."""
    may_be_hvbridge: bool

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


async def holder(machine: Machine, endpoint: Endpoint) -> Holder | None:
    """Find the process that listens on ``endpoint``; None if it cannot be determined."""
    if machine.platform == "win32":
        return await _windows_holder(machine, endpoint) if isinstance(endpoint, TcpEndpoint) else None
    if isinstance(endpoint, VsockEndpoint | HypervEndpoint):
        port = endpoint.port if isinstance(endpoint, VsockEndpoint) else port_of_service_id(endpoint.service)
        sockets = await machine.printed_by("ss", "--listening", "--vsock", "--numeric", "--no-header", "-p")
        return parse_vsock_holder(sockets.text if sockets else "", port)
    return await trio.to_thread.run_sync(_linux_holder, machine, endpoint)


# Linux.


class Listening(NamedTuple):
    """A listening socket on Linux."""

    endpoint: Endpoint
    inode: int


def _linux_holder(machine: Machine, endpoint: Endpoint) -> Holder | None:
    inodes = {f"socket:[{found.inode}]" for found in _listening(machine) if collide(found.endpoint, endpoint)}
    for process in machine.path("/proc").glob("[0-9]*"):
        if inodes & set(_descriptors(process)):
            command = machine.read(f"/proc/{process.name}/cmdline")
            program = machine.read(f"/proc/{process.name}/comm").strip()
            return Holder(int(process.name), program, "hvbridge" in command)
    return None


def _listening(machine: Machine) -> Iterator[Listening]:
    yield from parse_proc_tcp(machine.read("/proc/net/tcp"))
    yield from parse_proc_tcp(machine.read("/proc/net/tcp6"))
    yield from parse_proc_unix(machine.read("/proc/net/unix"))


def _descriptors(process: Path) -> Iterator[str]:
    """The targets of a process's descriptors; none for another user's process, or one that has exited."""
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(descriptor.readlink())


def parse_proc_tcp(text: str) -> Iterator[Listening]:
    """Parse the listening sockets from /proc/net/tcp or tcp6. Addresses are 32-bit words in native byte order."""
    for row in (line.split() for line in text.splitlines()[1:]):
        if len(row) < 10 or row[3] != _LISTEN:
            continue
        address, _, port = row[1].partition(":")
        words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
        packed = struct.pack(f"={len(words)}I", *words)
        host = socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
        yield Listening(TcpEndpoint(host, int(port, 16)), int(row[9]))


def parse_proc_unix(text: str) -> Iterator[Listening]:
    """Parse the listening sockets with a path from /proc/net/unix."""
    for row in (line.split(maxsplit=7) for line in text.splitlines()[1:]):
        if len(row) == 8 and int(row[3], 16) & _ACCEPTS:
            yield Listening(UnixEndpoint(row[7]), int(row[6]))


def parse_vsock_holder(text: str, port: int | None) -> Holder | None:
    """Parse who listens on ``port`` from the output of `ss --listening --vsock --numeric --no-header -p`."""
    for line in text.splitlines():
        row = line.split()
        process = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
        if process and len(row) > 4 and row[1] == "LISTEN" and row[4].rpartition(":")[2] == str(port):
            return Holder(int(process[2]), process[1], process[1].startswith(("hvbridge", "python")))
    return None


# Windows.


async def _windows_holder(machine: Machine, endpoint: TcpEndpoint) -> Holder | None:
    sockets = await machine.printed_by("netstat.exe", "-a", "-n", "-o")
    listening = parse_netstat(sockets.text if sockets else "")
    pid = next((pid for address, pid in listening if collide(address, endpoint)), None)
    if pid is None:
        return None
    tasks = await machine.printed_by("tasklist.exe", "/svc", "/fi", f"PID eq {pid}", "/fo", "csv", "/nh")
    program = parse_tasklist(tasks.text if tasks else "", pid)
    return Holder(pid, program or "a process", program.casefold().startswith(("hvbridge", "python")))


def parse_netstat(text: str) -> Iterator[tuple[TcpEndpoint, int]]:
    """Parse the listening sockets and their process ids from the output of `netstat -ano`.

    The word LISTENING is translated, so a listening socket is recognized by remote port 0.
    """
    for row in (line.split() for line in text.splitlines()):
        if len(row) < 4 or row[0] != "TCP" or not row[2].endswith(":0") or not row[-1].isdecimal():
            continue
        with suppress(EndpointError):
            endpoint = parse_endpoint(f"tcp://{row[1]}")
            assert isinstance(endpoint, TcpEndpoint)
            yield endpoint, int(row[-1])


def parse_tasklist(text: str, pid: int) -> str:
    """Parse a process's name and services from the output of `tasklist /svc /fo csv /nh`; "" if it has exited."""
    for row in csv.reader(text.splitlines()):
        if len(row) > 2 and row[1] == str(pid):
            name, services = row[0], row[2]
            return f"{name}: {services}" if name.casefold() == "svchost.exe" else name
    return ""


async def excluded_range(machine: Machine, port: int) -> range | None:
    """Return the port range that contains ``port`` and that Windows has reserved."""
    printed = await machine.printed_by("netsh.exe", "interface", "ipv4", "show", "excludedportrange", "tcp")
    ranges = parse_excluded_ranges(printed.text if printed else "")
    return next((found for found in ranges if port in found), None)


def parse_excluded_ranges(text: str) -> list[range]:
    """Parse the output of `netsh interface ipv4 show excludedportrange tcp`. An asterisk marks an administrator's."""
    rows = re.findall(r"^\s*(\d+)\s+(\d+)\s*\*?\s*$", text, re.MULTILINE)
    return [range(int(first), int(last) + 1) for first, last in rows]
