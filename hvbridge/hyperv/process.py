"""Runs a program of the system: that one and no other of its name, with a deadline and without a window."""

import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import PureWindowsPath

import trio

if sys.platform == "win32":
    import ctypes

DEADLINE = 60.0
"""Seconds for PowerShell to answer: a cold start on a busy machine may take ten."""

_MAX_PATH = 260

_FOLDERS = {"powershell.exe": r"WindowsPowerShell\v1.0"}
"""Where programs are below the system directory, if not in it."""

Run = Callable[[Sequence[str]], Awaitable["subprocess.CompletedProcess[bytes]"]]
"""Runs a program and returns what it printed; raises OSError when it cannot be started."""


async def run_program(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run ``command`` without a window and without input. Raises OSError, `trio.TooSlowError`."""
    name, *arguments = command
    with trio.fail_after(DEADLINE):
        return await trio.to_thread.run_sync(
            _run_blocking, [system_path(name), *arguments], abandon_on_cancel=True
        )


def system_path(name: str) -> str:
    """Return the absolute path of a program of Windows; elsewhere, ``name``, which PATH finds.

    CreateProcess looks for a bare name in the current directory first, which may be one of somebody else's making.
    """
    if sys.platform != "win32":
        return name
    return str(PureWindowsPath(_system_directory(), _FOLDERS.get(name, ""), name))


def _run_blocking(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    # The thread may be abandoned at the deadline, so the program gets the same one of its own.
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        creationflags=flags,
        check=False,
    )


def _system_directory() -> str:
    if sys.platform == "win32":
        path = ctypes.create_unicode_buffer(_MAX_PATH)
        ctypes.windll.kernel32.GetSystemDirectoryW(path, _MAX_PATH)
        return path.value
    return ""
