"""Registrations as text, to the letter; on Windows, what reg.exe makes of it."""

import subprocess
import uuid
from pathlib import Path

import pytest

from hvbridge.hyperv.guid import service_id_of_port
from hvbridge.hyperv.services import Service, ServiceRegistry
from hvbridge.hyperv.services.export import powershell_script, reg_file

SSH = Service(service_id_of_port(22), "ssh")
ODD = Service(uuid.UUID(int=1), 'it\'s "odd" \\ $x `y` %z%')
FOREIGN = Service(uuid.UUID(int=2), "Büro 開 😀")

REG = r"""Windows Registry Editor Version 5.00

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices\00000016-facb-11e6-bd58-64006a7986d3]
"ElementName"="ssh"

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices\00000000-0000-0000-0000-000000000001]
"ElementName"="it's \"odd\" \\ $x `y` %z%"

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices\00000000-0000-0000-0000-000000000002]
"ElementName"=hex(1):42,00,fc,00,72,00,6f,00,20,00,8b,95,20,00,3d,d8,00,de,00,00

[-HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices\00000000-0000-0000-0000-000000000003]
"""  # noqa: E501

POWERSHELL = r"""#Requires -RunAsAdministrator
$ErrorActionPreference = 'Stop'
$services = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices'
$key = "$services\00000016-facb-11e6-bd58-64006a7986d3"
if (-not (Test-Path $key)) { $null = New-Item -Path $key -Force }
Set-ItemProperty -Path $key -Name ElementName -Value 'ssh'
$key = "$services\00000000-0000-0000-0000-000000000001"
if (-not (Test-Path $key)) { $null = New-Item -Path $key -Force }
Set-ItemProperty -Path $key -Name ElementName -Value 'it''s "odd" \ $x `y` %z%'
$key = "$services\00000000-0000-0000-0000-000000000002"
if (-not (Test-Path $key)) { $null = New-Item -Path $key -Force }
Set-ItemProperty -Path $key -Name ElementName -Value (-join [char[]](66, 252, 114, 111, 32, 38283, 32, 55357, 56832))
$key = "$services\00000000-0000-0000-0000-000000000003"
if (Test-Path $key) { Remove-Item -Path $key }
"""


def test_reg_file() -> None:
    """Names are quoted for regedit, and one that is not ASCII is written in numbers."""
    assert reg_file([SSH, ODD, FOREIGN], [uuid.UUID(int=3)]) == REG


def test_powershell_script() -> None:
    """Names are quoted for PowerShell, and one that is not ASCII is written in numbers."""
    assert powershell_script([SSH, ODD, FOREIGN], [uuid.UUID(int=3)]) == POWERSHELL


# Wine goes by the file's encoding, not by the version in its first line, in reading numbers: the name that is not
# ASCII arrives in UTF-16 only. Files of Windows' own regedit, saved as ASCII, have such numbers as we write them.
REDIRECTED = {
    "as cmd.exe redirects": ("ascii", [SSH, ODD]),
    "as PowerShell 5 redirects": ("utf-16", [SSH, ODD, FOREIGN]),
}


@pytest.mark.parametrize(("encoding", "services"), REDIRECTED.values(), ids=REDIRECTED.keys())
def test_windows_takes_the_file(
    windows_registry: ServiceRegistry, tmp_path: Path, encoding: str, services: list[Service]
) -> None:
    """`reg import` registers what the file adds, names and all, and removes what it removes."""
    gone = Service(uuid.UUID(int=3), "gone")
    windows_registry.register(gone)
    file = tmp_path / "services.reg"
    file.write_text(reg_file(services, [gone.id]), encoding=encoding)
    subprocess.run(["reg", "import", file], check=True, capture_output=True)
    assert set(windows_registry.services()) == set(services)
