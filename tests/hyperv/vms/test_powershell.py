"""What PowerShell prints about VMs is read right, and what it should not have printed is explained.

The texts are in the forms that Windows PowerShell 5.1 and PowerShell 7 give to the script's answer.
"""

import json
import subprocess
import uuid
from collections.abc import Sequence

import pytest
import trio

from hvbridge.hyperv.vms import Vm, VmError, VmState
from hvbridge.hyperv.vms.powershell import PowerShellDirectory, parse_answer, parse_vms

ONE = uuid.UUID("11111111-1111-1111-1111-111111111111")
TWO = uuid.UUID("22222222-2222-2222-2222-222222222222")
HOST = '{"Name":"WS-0042","ElementName":"WS-0042","EnabledState":2}'
DEV_BOX = f'{{"Name":"{str(ONE).upper()}","ElementName":"dev-box","EnabledState":2}}'


def read(printed: str) -> list[Vm]:
    return parse_vms(parse_answer(printed.encode(), b""))


ANSWERS = {
    "no VMs": (f'{{"ok":[{HOST}]}}', []),
    "one VM": (f'{{"ok":[{HOST},{DEV_BOX}]}}', [Vm("dev-box", ONE, VmState.RUNNING)]),
    "a VM without its host": (f'{{"ok":[{DEV_BOX}]}}', [Vm("dev-box", ONE, VmState.RUNNING)]),
    "a list of one, unwrapped": (f'{{"ok":{DEV_BOX}}}', [Vm("dev-box", ONE, VmState.RUNNING)]),
    "the host alone, unwrapped": (f'{{"ok":{HOST}}}', []),
    "a list with its count": (
        f'{{"ok":{{"value":[{HOST},{DEV_BOX}],"Count":2}}}}',
        [Vm("dev-box", ONE, VmState.RUNNING)],
    ),
    "a list of one with its count": (
        f'{{"ok":{{"value":[{HOST}],"Count":1}}}}',
        [],
    ),
    "a mark, and an end of line": (
        f'\ufeff{{"ok":[{HOST},{DEV_BOX}]}}\r\n',
        [Vm("dev-box", ONE, VmState.RUNNING)],
    ),
    "two VMs of one name": (
        f'{{"ok":[{DEV_BOX},{DEV_BOX.replace("1", "2")}]}}',
        [Vm("dev-box", ONE, VmState.RUNNING), Vm("dev-box", TWO, VmState.RUNNING)],
    ),
    "no name": (
        f'{{"ok":[{{"Name":"{ONE}","ElementName":null,"EnabledState":3}}]}}',
        [Vm("", ONE, VmState.OFF)],
    ),
}


@pytest.mark.parametrize(("printed", "vms"), ANSWERS.values(), ids=ANSWERS.keys())
def test_answers(printed: str, vms: list[Vm]) -> None:
    """Every form of a list is read, and the host's own row is no VM."""
    assert read(printed) == vms


@pytest.mark.parametrize(
    "name",
    ['it\'s "quoted"', "back\\slash", "Büro 開発 😀", "  two  spaces ", "", "[bold]x[/]", "a/b", "x" * 100],
)
def test_odd_names(name: str) -> None:
    """A name is what Hyper-V has, whatever is in it, escaped as 5.1 does or plain as 7 does."""
    row = {"Name": str(ONE), "ElementName": name, "EnabledState": 2}
    for ascii_only in (True, False):
        printed = json.dumps({"ok": [row]}, ensure_ascii=ascii_only).replace(
            "'", "\\u0027" if ascii_only else "'"
        )
        assert read(printed) == [Vm(name, ONE, VmState.RUNNING)]


def test_many_vms() -> None:
    """Two hundred VMs are two hundred VMs, in the order of the answer."""
    rows = [{"Name": str(uuid.UUID(int=n)), "ElementName": f"vm-{n}", "EnabledState": 3} for n in range(200)]
    assert [vm.name for vm in read(json.dumps({"ok": rows}))] == [f"vm-{n}" for n in range(200)]


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (2, VmState.RUNNING),
        (3, VmState.OFF),
        (6, VmState.SAVED),
        (9, VmState.PAUSED),
        (10, VmState.STARTING),
        (4, VmState.STOPPING),
        (32769, VmState.SAVED),
        (1, VmState.UNKNOWN),
        (99999, VmState.UNKNOWN),
        (None, VmState.UNKNOWN),
        ([], VmState.UNKNOWN),
    ],
)
def test_states(number: object, state: VmState) -> None:
    """Each state that Hyper-V has is told in a word, and one that is new does not hide the VM."""
    row = {"Name": str(ONE), "ElementName": "a", "EnabledState": number}
    assert read(json.dumps({"ok": [row]})) == [Vm("a", ONE, state)]


def error(code: str | None, kind: str, message: str | None) -> str:
    return json.dumps({"message": message, "kind": kind, "code": code})


FAILURES = {
    "no Hyper-V": (
        error("InvalidNamespace", "CimException", "Ungültiger Namespace"),
        "",
        "has no Hyper-V role",
    ),
    "no class": (error("InvalidClass", "CimException", "Invalid class"), "", "has no Hyper-V role"),
    "no right": (
        error("AccessDenied", "CimException", "Zugriff verweigert"),
        "",
        "join the group Hyper-V Administ",
    ),
    "another error": (
        error("Failed", "CimException", "RPC\r\nfailed"),
        "",
        "Hyper-V reports RPC\\r\\nfailed (Failed)",
    ),
    "an error of .NET": (
        error("", "CommandNotFoundException", "no cmdlet"),
        "",
        "(CommandNotFoundException)",
    ),
    "an error without words": (error("", "Exception", None), "", "(Exception)"),
    "not even the host": ('{"ok":[]}', "", "join the group Hyper-V Administrators"),
    "an empty count": ('{"ok":{"value":[],"Count":0}}', "", "join the group Hyper-V Administrators"),
    "an object of another form": ('{"ok":{"Caption":"x"}}', "", "rows of an unknown form"),
    "null": ('{"ok":null}', "", "rows of an unknown form"),
    "rows of another class": ('{"ok":[{"Caption":"x"}]}', "", "rows of an unknown form"),
    "rows that are none": ('{"ok":["x"]}', "", "rows of an unknown form"),
    "nothing": ("", "", "PowerShell printed nothing"),
    "spaces": (" \r\n", "", "PowerShell printed nothing"),
    "only an error": ("", "Access is\r\ndenied.", "PowerShell printed Access is denied."),
    "words": ("Windows PowerShell\r\nCopyright", "", "PowerShell printed Windows PowerShell Copyright"),
    "half an answer": ('{"ok":[{"Name":', "", "PowerShell printed {"),
    "a bare list": ("[]", "", "PowerShell printed []"),
    "a bare text": ('"ok"', "", 'PowerShell printed "ok"'),
    "a bare number": ("1", "", "PowerShell printed 1"),
    "bare null": ("null", "", "PowerShell printed null"),
    "steering of a terminal": ("\x1b[2J", "", "PowerShell printed \\x1b[2J"),
}


@pytest.mark.parametrize(("stdout", "stderr", "told"), FAILURES.values(), ids=FAILURES.keys())
def test_failures(stdout: str, stderr: str, told: str) -> None:
    """Whatever is no list of VMs is an error in a sentence, never an empty list, with what to do."""
    with pytest.raises(VmError) as caught:
        parse_vms(parse_answer(stdout.encode(), stderr.encode()))
    assert told in str(caught.value)
    assert str(caught.value).endswith("write VM ids")


def test_bytes_of_another_encoding() -> None:
    """An answer in a code page, or in UTF-16, is an error in a sentence."""
    for encoding in ("cp437", "utf-16"):
        with pytest.raises(VmError, match="PowerShell printed"):
            parse_answer('{"ok":[{"ElementName":"Büro"}]}'.encode(encoding), b"")


class Programs:
    """Runs programs as a test has them answer."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.commands: list[Sequence[str]] = []

    async def run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        self.commands.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return subprocess.CompletedProcess(command, 0, self.answer, b"")


async def test_one_query_lists_the_vms() -> None:
    """The VMs are asked for in one program, whose script holds nothing of the user's."""
    programs = Programs(f'{{"ok":[{HOST},{DEV_BOX}]}}'.encode())
    assert await PowerShellDirectory(programs.run).vms() == [Vm("dev-box", ONE, VmState.RUNNING)]
    ((program, *_, script),) = programs.commands
    assert program == "powershell.exe"
    assert "Msvm_ComputerSystem" in script


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (FileNotFoundError(2, "The system cannot find the file specified"), "powershell.exe cannot be run"),
        (trio.TooSlowError(), "did not answer in 60 s"),
    ],
)
async def test_powershell_that_does_not_run(failure: Exception, told: str) -> None:
    """Without PowerShell, or without its answer, the error says so."""
    with pytest.raises(VmError, match=told):
        await PowerShellDirectory(Programs(failure).run).vms()


async def test_start_and_save_name_the_vm_by_its_id() -> None:
    """A VM is started and saved by id; an answer without rows is none the worse."""
    programs = Programs(b'{"ok":null}')
    directory = PowerShellDirectory(programs.run)
    await directory.start(ONE)
    await directory.save(TWO)
    start, save = (command[-1] for command in programs.commands)
    assert f"Get-VM -Id {ONE} | Start-VM" in start
    assert f"Get-VM -Id {TWO} | Save-VM" in save
