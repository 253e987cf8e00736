"""Start-up times, beside what a bare interpreter takes.

A bridge is ready when a byte has come back through it; so is `connect`, which joins a server with its own
stdin and stdout. A bare interpreter is measured to its exit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.figures import OURS, Column
from bench.peers import PEERS
from bench.processes import Child
from bench.target import Placement, TargetError, started

COLUMN = Column("start-connect", "start to first byte", "ms", "less")
PATIENCE_SECONDS = 15.0

BARE = "python -c pass"
BARE_TRIO = "python -c 'import trio'"


def _to_exit(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS)
    return time.perf_counter() - begin


def _to_first_byte(argv: list[str]) -> float:
    """From starting a program that joins its stdio with the server to the byte that comes back."""
    begin = time.perf_counter()
    pipe = subprocess.PIPE
    with Child(argv, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        process = child.process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"P")
        process.stdin.flush()
        if process.stdout.read(1) != b"P":
            said = process.stderr.read().decode(errors="replace").strip()
            raise TargetError(f"{' '.join(argv[:4])} gave no byte: {said[-400:] or 'no word from it'}")
        return time.perf_counter() - begin


def subjects(binary: Path, kind: str) -> Mapping[str, Callable[[], float]]:
    """What can be measured here: its name, and how (seconds; TargetError where it does not start)."""
    by_name = {peer.name: peer for peer in PEERS}

    def connect(url_style: bool) -> Callable[[], float]:
        def run() -> float:
            with started(by_name["direct"], kind, binary, Placement()) as target:
                if url_style:
                    return _to_first_byte([sys.executable, "-m", "hvbridge", "connect", target.upstream.url])
                where = target.upstream.where
                to = f"UNIX-CONNECT:{where}" if kind == "unix" else f"TCP:127.0.0.1:{where}"
                return _to_first_byte([by_name["socat"].find() or "socat", "-", to])

        return run

    def bridge(name: str) -> Callable[[], float]:
        def run() -> float:
            with started(by_name[name], kind, binary, Placement()) as target:
                return target.ready_seconds

        return run

    found = {
        BARE: lambda: _to_exit("pass"),
        BARE_TRIO: lambda: _to_exit("import trio"),
        OURS: connect(url_style=True),
        "hvbridge run": bridge("hvbridge"),
        "plain-trio": bridge("plain-trio"),
    }
    if by_name["socat"].find() and kind != "vsock":
        found["socat - (stdio)"] = connect(url_style=False)
    for name in ("haproxy-copy", "nginx"):
        if by_name[name].find() and kind in by_name[name].upstreams:
            found[name] = bridge(name)
    return found
