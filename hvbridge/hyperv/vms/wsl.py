"""The id of WSL2's utility VM.

`wslinfo --vm-id` runs inside the default distribution and needs no rights; asking starts WSL where it does not run.
"""

from uuid import UUID

import trio

from hvbridge.hyperv.guid import parse_guid
from hvbridge.hyperv.process import Run
from hvbridge.hyperv.vms import VmError
from hvbridge.text import printable

_COMMAND = ("wsl.exe", "--", "wslinfo", "--vm-id")
_RUNNING = ("wsl.exe", "--list", "--running", "--quiet")
"""Lists the distributions that run, and starts none."""


async def wsl_vm_id(run: Run, *, start: bool) -> UUID:
    """Return the id of WSL2's VM; where WSL does not run it is started for that, or is an error. Raises `VmError`."""
    try:
        if not start:
            running = await run(_RUNNING)
            if running.returncode or not _text(running.stdout).strip():
                raise VmError("WSL is not running", "start a distribution")
        done = await run(_COMMAND)
    except OSError:
        raise VmError("wsl.exe cannot be found", "install WSL (wsl --install), or write another VM") from None
    except trio.TooSlowError:
        raise VmError("WSL did not answer in time", "try `wsl --shutdown`, then again") from None
    return parse_vm_id(done.stdout, done.stderr)


def parse_vm_id(stdout: bytes, stderr: bytes) -> UUID:
    """Read what wslinfo printed. wsl.exe's own messages are UTF-16. Raises `VmError`."""
    said = _text(stdout).strip()
    vm = parse_guid(said)
    if vm is not None:
        return vm
    if said == "wsl1":
        raise VmError(
            "the default distribution is WSL 1, which is no VM", "convert it with `wsl --set-version NAME 2`"
        )
    words = " ".join((said or _text(stderr)).split())
    what = f"it printed {printable(words)}" if words else "it printed nothing"
    raise VmError(f"`{' '.join(_COMMAND)}` gave no VM id: {what}", "update WSL with `wsl --update`")


def _text(data: bytes) -> str:
    return data.decode("utf-16-le" if b"\0" in data else "utf-8", "replace").lstrip("\ufeff")
