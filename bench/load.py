"""The load generator (load.c) from Python's side: built once into a cache, run for one figure at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from bench.addresses import Address
from bench.processes import Child

SOURCE = Path(__file__).with_name("load.c")
PATIENCE_SECONDS = 150.0  # beyond every alarm that load.c sets for itself


class LoadError(Exception):
    """The generator could not be built, or a run of it failed; the message says why."""


def build() -> Path:
    """The compiled generator, from the cache if this very source was built before."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    name = f"load-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hvbridge-bench"
    binary = cache / name
    if binary.exists():
        return binary
    if compiler is None:
        raise LoadError(
            "the load generator is C and no compiler (cc, gcc or clang) is on the path: install one"
        )
    cache.mkdir(parents=True, exist_ok=True)
    partial = binary.with_suffix(f".{os.getpid()}")  # renamed when whole: two benches may build at once
    built = subprocess.run(
        [compiler, "-O2", "-o", partial, SOURCE], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise LoadError(f"{compiler} could not build {SOURCE.name}:\n{built.stderr}")
    partial.rename(binary)
    return binary


class Server(Child):
    """The server side of the generator, listening when this returns. It ends with our end of its stdin."""

    def __init__(self, binary: Path, address: Address, cpus: Collection[int] = ()) -> None:
        pipe = subprocess.PIPE
        super().__init__(
            [str(binary), "serve", str(address)], stdin=pipe, stdout=pipe, stderr=pipe, cpus=cpus
        )
        assert self.process.stdout
        line = self.process.stdout.readline().decode().split()
        if line[:1] != ["ready"]:
            assert self.process.stderr
            why = self.process.stderr.read().decode().strip()
            self.stop()
            raise LoadError(why or "the server ended before it was ready")


def run(
    binary: Path, mode: str, address: str, count: int, seconds: float, cpus: Collection[int]
) -> dict[str, float]:
    """One client run; its figures by name."""
    argv = [str(binary), mode, address, str(count), f"{seconds:g}"]
    with Child(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cpus=cpus) as client:
        try:
            out, err = client.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadError(f"{mode} took more than {PATIENCE_SECONDS:g} s") from None
    if client.process.returncode:
        raise LoadError(err.decode().strip().removeprefix("load: "))
    figures: dict[str, float] = json.loads(out)
    return figures


class Held(Child):
    """Connections that are open, proved by a byte each way, and silent, until the end of the context."""

    def __init__(self, binary: Path, address: str, count: int) -> None:
        pipe = subprocess.PIPE
        super().__init__([str(binary), "hold", address, str(count)], stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.process.stdout
        if not self.process.stdout.readline():
            assert self.process.stderr
            why = self.process.stderr.read().decode().strip().removeprefix("load: ")
            self.stop()
            raise LoadError(why)
