"""What wsl.exe prints when it is asked for the id of WSL2's VM."""

import subprocess
import uuid
from collections.abc import Sequence

import pytest
import trio

from hvbridge.hyperv.vms import VmError
from hvbridge.hyperv.vms.wsl import parse_vm_id, wsl_vm_id

VM = uuid.UUID("7cc5a5e1-4bd4-4f0a-9b0c-0a1b2c3d4e5f")


@pytest.mark.parametrize(
    "printed",
    [
        f"{VM}\n".encode(),
        f"{VM}".encode(),
        f"{{{str(VM).upper()}}}\r\n".encode(),
        f"\ufeff{VM}\n".encode(),
        f"{VM}\r\n".encode("utf-16-le"),
        f"\ufeff{VM}\r\n".encode("utf-16-le"),
    ],
)
def test_ids(printed: bytes) -> None:
    """The id is read in every encoding and form in which it may come."""
    assert parse_vm_id(printed, b"") == VM


NO_DISTRIBUTION = "Windows Subsystem for Linux has no installed distributions.\r\n"
FAILURES = {
    "WSL 1": (b"wsl1\n", b"", "wsl --set-version NAME 2"),
    "WSL 1, in UTF-16": ("wsl1\r\n".encode("utf-16-le"), b"", "wsl --set-version NAME 2"),
    "nothing": (b"", b"", "it printed nothing"),
    "an end of line": (b"\r\n", b"", "it printed nothing"),
    "an old wslinfo": (b"", b"wslinfo: unrecognized option: --vm-id\n", "unrecognized option: --vm-id"),
    "no wslinfo": (b"", b"/bin/bash: line 1: wslinfo: command not found\n", "wslinfo: command not found"),
    "no distribution": (NO_DISTRIBUTION.encode("utf-16-le"), b"", "has no installed distributions."),
    "two lines": (f"{VM}\n{VM}\n".encode(), b"", "gave no VM id"),
    "half an id": (str(VM)[:20].encode(), b"", "gave no VM id"),
    "garbage": (b"\xff\xfe\xfa", b"", "gave no VM id"),
}


@pytest.mark.parametrize(("stdout", "stderr", "told"), FAILURES.values(), ids=FAILURES.keys())
def test_failures(stdout: bytes, stderr: bytes, told: str) -> None:
    """Whatever is no id is an error that tells what was said and what to do."""
    with pytest.raises(VmError) as caught:
        parse_vm_id(stdout, stderr)
    assert told in str(caught.value)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "told"),
    [(FileNotFoundError(2, "no such file"), "install WSL"), (trio.TooSlowError(), "did not answer in time")],
)
async def test_wsl_that_does_not_run(failure: Exception, told: str) -> None:
    """Without WSL, or without its answer, the error says so."""

    async def run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        assert command[0] == "wsl.exe"
        raise failure

    with pytest.raises(VmError, match=told):
        await wsl_vm_id(run, start=True)
