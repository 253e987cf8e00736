"""Exports registrations as text, for a machine on which hvbridge may not run as administrator.

The text is ASCII, so that it survives any encoding of a shell's ``>``: UTF-16 with a byte order mark in Windows
PowerShell 5, the system's code page in cmd.exe, UTF-8 elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from hvbridge.hyperv.services import Service

KEY: Final = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices"
"""Below HKEY_LOCAL_MACHINE. Source: Microsoft, "Make your own integration services"."""

VALUE: Final = "ElementName"


def reg_file(add: Iterable[Service], remove: Iterable[UUID]) -> str:
    """Return a .reg file, for `reg import` or a double click."""
    lines = ["Windows Registry Editor Version 5.00", ""]
    for service in add:
        lines += [rf"[HKEY_LOCAL_MACHINE\{KEY}\{service.id}]", f'"{VALUE}"={_reg_text(service.name)}', ""]
    lines += [line for service_id in remove for line in (rf"[-HKEY_LOCAL_MACHINE\{KEY}\{service_id}]", "")]
    return "\n".join(lines)


def powershell_script(add: Iterable[Service], remove: Iterable[UUID]) -> str:
    """Return a script for any version of PowerShell, run as administrator."""
    lines = [
        "#Requires -RunAsAdministrator",
        "$ErrorActionPreference = 'Stop'",
        f"$services = 'HKLM:\\{KEY}'",
    ]
    for service in add:
        lines += [
            f'$key = "$services\\{service.id}"',
            "if (-not (Test-Path $key)) { $null = New-Item -Path $key -Force }",
            f"Set-ItemProperty -Path $key -Name {VALUE} -Value {_powershell_text(service.name)}",
        ]
    for service_id in remove:
        lines += [
            f'$key = "$services\\{service_id}"',
            "if (Test-Path $key) { Remove-Item -Path $key }",
        ]
    return "\n".join([*lines, ""])


FORMS: Final[Mapping[str, Callable[[Iterable[Service], Iterable[UUID]], str]]] = MappingProxyType(
    {"reg": reg_file, "powershell": powershell_script}
)
"""The export functions, by their names on the command line; they take services to add and ids to remove."""


def _reg_text(text: str) -> str:
    if text.isascii():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"hex(1):{(text + chr(0)).encode('utf-16-le').hex(',')}"


def _powershell_text(text: str) -> str:
    if text.isascii():
        escaped = text.replace("'", "''")
        return f"'{escaped}'"
    units = memoryview(text.encode("utf-16-le")).cast("H")
    return f"(-join [char[]]({', '.join(map(str, units))}))"
