"""Registries of services: the emulator's everywhere, and the one of Windows on Windows."""

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from hvbridge.hyperv.guid import service_id_of_port
from hvbridge.hyperv.services import NotElevatedError, RegistrationError, Service, ServiceRegistry, export
from hvbridge.transport.emulator.services import EmulatorRegistry

SSH = Service(service_id_of_port(22), "ssh")
RDP = Service(uuid.UUID("b1d00d3d-3c6e-4f2b-9a54-d5f3a0c7e81b"), "RDP of the Büro 開発 😀")

windows_only = pytest.mark.skipif(sys.platform != "win32", reason="the registry exists only on Windows")

if sys.platform == "win32":
    import winreg

    from hvbridge.hyperv.services.windows import WindowsRegistry
else:
    winreg: Any = None
    WindowsRegistry: Any = None


@pytest.fixture(params=["emulator", "windows"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ServiceRegistry:
    """A registry with nothing in it."""
    if request.param == "emulator":
        return EmulatorRegistry(tmp_path / "not" / "yet")
    found: ServiceRegistry = request.getfixturevalue("windows_registry")
    return found


def test_services_come_and_go(registry: ServiceRegistry) -> None:
    """What is registered is listed with its name, can be renamed, and is gone when it was removed."""
    assert registry.services() == []
    registry.register(SSH)
    registry.register(RDP)
    assert set(registry.services()) == {SSH, RDP}
    registry.register(SSH._replace(name="another name"))
    assert set(registry.services()) == {SSH._replace(name="another name"), RDP}
    registry.unregister(SSH.id)
    assert registry.services() == [RDP]


def test_removing_what_is_not_there(registry: ServiceRegistry) -> None:
    """A service that is not registered can be removed, again and again."""
    registry.unregister(SSH.id)
    registry.register(SSH)
    registry.unregister(SSH.id)
    registry.unregister(SSH.id)
    assert registry.services() == []


def test_keys_are_as_hyperv_wants_them(windows_registry: ServiceRegistry) -> None:
    """A service is a key without braces in the 64-bit view, and others' keys are read as far as they can be."""
    windows_registry.register(SSH)
    view = winreg.KEY_WOW64_64KEY
    with winreg.OpenKeyEx(winreg.HKEY_LOCAL_MACHINE, export.KEY, 0, winreg.KEY_ALL_ACCESS | view) as services:
        with winreg.OpenKeyEx(services, str(SSH.id)) as key:
            assert winreg.QueryValueEx(key, "ElementName") == ("ssh", winreg.REG_SZ)
        winreg.CreateKey(services, "no service").Close()
        with winreg.CreateKey(services, f"{{{str(RDP.id).upper()}}}") as nameless:
            assert set(windows_registry.services()) == {SSH, Service(RDP.id, "")}
            winreg.SetValueEx(nameless, "ElementName", 0, winreg.REG_DWORD, 7)
            assert set(windows_registry.services()) == {SSH, Service(RDP.id, "")}


@windows_only
def test_refusal_of_windows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Windows denies the key to a user, the error says who may."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Access is denied", None, 5)

    monkeypatch.setattr(winreg, "CreateKeyEx", refuse)
    with pytest.raises(NotElevatedError, match="only an administrator"):
        WindowsRegistry().register(SSH)


def test_strange_files_of_the_emulator(tmp_path: Path) -> None:
    """A file that names no service is none, and one from before names were kept has none."""
    files = tmp_path / "registered"
    files.mkdir()
    (files / "notes.txt").write_text("x")
    (files / str(SSH.id)).touch()
    (files / str(RDP.id)).write_bytes(b"\xff")
    assert set(EmulatorRegistry(tmp_path).services()) == {Service(SSH.id, ""), Service(RDP.id, "\ufffd")}


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A failure of the file system is an error of the registry."""
    (tmp_path / "file").touch()
    with pytest.raises(RegistrationError, match="the emulator's directory cannot be used"):
        EmulatorRegistry(tmp_path / "file").register(SSH)
