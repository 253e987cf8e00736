"""Programs of the system are run by their whole paths, so that none in the current directory takes their place."""

import sys
from pathlib import Path

import pytest

from hvbridge.hyperv.process import run_program, system_path

windows_only = pytest.mark.skipif(sys.platform != "win32", reason="elsewhere PATH finds programs")


@windows_only
@pytest.mark.parametrize("name", ["powershell.exe", "wsl.exe", "netstat.exe", "sc.exe", "whoami.exe"])
def test_a_name_is_a_program_of_the_system(name: str) -> None:
    """Every program that is run is in the directory of the system, or below it."""
    path = Path(system_path(name))
    assert path.is_absolute()
    assert "system32" in str(path).casefold()
    assert path.name == name


@windows_only
async def test_the_current_directory_is_not_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name in the current directory is not run."""
    (tmp_path / "whoami.exe").write_bytes(b"no program")
    monkeypatch.chdir(tmp_path)
    assert (await run_program(["whoami.exe"])).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no PATH for these")
def test_elsewhere_path_finds_it() -> None:
    """PATH does not have the current directory unless somebody has put it there."""
    assert system_path("ss") == "ss"
