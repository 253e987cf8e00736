"""The services of a Windows host, in its registry. Everyone can read them; only administrators can change them.

Source: Microsoft, "Make your own integration services" (each key is named by a service id, without braces, and
its value ElementName is the friendly name).
"""

import sys

if sys.platform != "win32":
    raise ImportError("the registry exists only on Windows")

import winreg
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from hvbridge.hyperv.guid import parse_guid
from hvbridge.hyperv.services import NotElevatedError, RegistrationError, Service
from hvbridge.hyperv.services.export import KEY, VALUE

_VIEW = winreg.KEY_WOW64_64KEY
"""Hyper-V reads the 64-bit view, which a 32-bit Python does not use by default."""


class WindowsRegistry:
    """The services registered with Hyper-V on this machine."""

    def services(self) -> list[Service]:
        """As `ServiceRegistry.services`."""
        with _translated_errors():
            return list(_services())

    def register(self, service: Service) -> None:
        """As `ServiceRegistry.register`; creates missing parent keys."""
        path = rf"{KEY}\{service.id}"
        with (
            _translated_errors(),
            winreg.CreateKeyEx(winreg.HKEY_LOCAL_MACHINE, path, 0, winreg.KEY_SET_VALUE | _VIEW) as key,
        ):
            winreg.SetValueEx(key, VALUE, 0, winreg.REG_SZ, service.name)

    def unregister(self, service_id: UUID) -> None:
        """As `ServiceRegistry.unregister`."""
        with _translated_errors(), suppress(FileNotFoundError):
            winreg.DeleteKeyEx(winreg.HKEY_LOCAL_MACHINE, rf"{KEY}\{service_id}", _VIEW)


def _services() -> Iterator[Service]:
    try:
        services = winreg.OpenKeyEx(winreg.HKEY_LOCAL_MACHINE, KEY, 0, winreg.KEY_READ | _VIEW)
    except FileNotFoundError:
        return
    with services:
        names = [winreg.EnumKey(services, index) for index in range(winreg.QueryInfoKey(services)[0])]
        for name in names:
            service_id = parse_guid(name)
            if service_id is None:
                continue
            friendly: object = ""
            with (
                suppress(FileNotFoundError),
                winreg.OpenKeyEx(services, name, 0, winreg.KEY_READ | _VIEW) as key,
            ):
                friendly = winreg.QueryValueEx(key, VALUE)[0]
            yield Service(service_id, friendly if isinstance(friendly, str) else "")


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotElevatedError("only an administrator may change which services are registered") from error
    except OSError as error:
        raise RegistrationError(f"the Windows registry reported: {error.strerror}") from error
