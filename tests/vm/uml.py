"""Boots User-Mode Linux: real Linux kernels as ordinary processes, without KVM and without root.

Owns: the command line of a kernel, its life and its end, and what it needs of the machine. Refuses: what runs
inside (`init.sh` starts it).
"""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
_MEMORY = 512 * 1024 * 1024
"""Bytes of a kernel, taken from the machine as they are used: three files of 50 MB, and Python twice."""
_VSOCK = 19
"""The virtio device id of a vsock."""


def lack() -> str | None:
    """Say what this machine lacks to run the kernels; None when it has it all."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "User-Mode Linux is for Linux on x86-64"
    for program, package in [
        ("linux.uml", "user-mode-linux"),
        ("busybox", "busybox"),
        ("sshd", "openssh-server"),
        ("ssh", "openssh-client"),
    ]:
        if not _which(program):
            return f"there is no {program}: apt install {package}"
    if _has_amx() and not _which("cc"):
        return "User-Mode Linux needs tests/vm/xstate.c on a CPU with AMX, and there is no C compiler: apt install gcc"
    return None


@contextmanager
def kernel(
    name: str, shared: Path, modules: Sequence[str], command: Sequence[str], device: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Boot a kernel that loads ``modules``, runs ``command`` in this directory, and switches itself off.

    It is killed at exit.

    ``shared`` is a directory that it may write to, as /run/shared; its console goes to ``name``.console there.
    ``device`` is the socket of a virtio-vsock back end. ``shared`` and ``name`` must be without spaces.
    """
    init = shared / f"{name}.init"
    words = [HERE / "init.sh", name, shared, Path.cwd(), " ".join(modules), *command]
    init.write_text(f"#!/bin/busybox sh\nexec busybox sh {shlex.join(map(str, words))}\n")
    init.chmod(0o755)
    scratch = shared / f"{name}.uml"
    scratch.mkdir()
    arguments = [
        *(f"umid={name}", f"uml_dir={scratch}", f"mem={_MEMORY}", "quiet", "con=null", "con0=null,fd:1"),
        *("root=none", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}"),
        *([f"virtio_uml.device={device}:{_VSOCK}"] if device else []),
    ]
    environ = {"PATH": os.environ["PATH"], "TMPDIR": str(_memory_directory(scratch))}
    if _has_amx():
        environ["LD_PRELOAD"] = str(_build_xstate(shared))
    with (shared / f"{name}.console").open("wb") as console:
        process = subprocess.Popen(
            [_which("linux.uml"), *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a kernel is many processes, which end together
        )
    try:
        yield process
    finally:
        if sys.platform == "linux" and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _which(program: str) -> str:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or ""


def _memory_directory(fallback: Path) -> Path:
    """Where the kernel's memory lives, in a file: in RAM, if code may run from there and there is room."""
    if sys.platform != "linux":
        raise NotImplementedError
    ram = Path("/dev/shm")
    try:
        about = os.statvfs(ram)
    except OSError:
        return fallback
    usable = not about.f_flag & os.ST_NOEXEC and about.f_bavail * about.f_frsize > 2 * _MEMORY
    return ram if usable and os.access(ram, os.W_OK) else fallback


def _has_amx() -> bool:
    return " amx_tile" in Path("/proc/cpuinfo").read_text()


def _build_xstate(directory: Path) -> Path:
    library = directory / "xstate.so"
    if not library.exists():
        subprocess.run(
            [_which("cc"), "-O2", "-shared", "-fPIC", "-o", library, HERE / "xstate.c"], check=True
        )
    return library
