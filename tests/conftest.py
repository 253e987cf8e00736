"""What tests in more than one directory share."""

import sys
import uuid
from collections.abc import Iterator

import pytest

from hvbridge.hyperv.services import ServiceRegistry, export


@pytest.fixture
def windows_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceRegistry]:
    """The services of Windows in its registry, but below a key that a test has to itself: there are none yet."""
    if sys.platform != "win32":
        pytest.skip("the registry exists only on Windows")
    import winreg

    from hvbridge.hyperv.services import windows

    machine, view = winreg.HKEY_LOCAL_MACHINE, winreg.KEY_WOW64_64KEY
    path = rf"SOFTWARE\hvbridge-test-{uuid.uuid4().hex}"
    for module in (export, windows):
        monkeypatch.setattr(module, "KEY", path)
    with winreg.CreateKeyEx(machine, path, 0, winreg.KEY_ALL_ACCESS | view) as key:
        yield windows.WindowsRegistry()
        for name in [winreg.EnumKey(key, index) for index in range(winreg.QueryInfoKey(key)[0])]:
            winreg.DeleteKeyEx(key, name, view)
    winreg.DeleteKeyEx(machine, path, view)
