"""Runs a program of the system, with a deadline and without a window."""

import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

import trio

DEADLINE = 60.0
"""Seconds for PowerShell to answer: a cold start on a busy machine may take ten."""

Run = Callable[[Sequence[str]], Awaitable["subprocess.CompletedProcess[bytes]"]]
"""Runs a program and returns what it printed; raises OSError when it cannot be started."""


async def run_program(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run ``command`` without a window and without input. Raises OSError, `trio.TooSlowError`."""
    with trio.fail_after(DEADLINE):
        return await trio.to_thread.run_sync(_run_blocking, command, abandon_on_cancel=True)


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
