"""Manages Windows services through the service control manager and the registry.

Errors of pywin32 and of the registry become `ServiceError`.
"""

import sys

if sys.platform != "win32":
    raise ImportError("Windows services exist only on Windows")

import subprocess
import time
import winreg
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pywintypes
import win32service
import winerror

from hvbridge.service.windows import Installation, Installed, NotElevatedError, ServiceError

_DESCRIPTION = "Forwards connections between this machine and Hyper-V virtual machines, as configured."

_SERVICES = r"SYSTEM\CurrentControlSet\Services"
_SOURCES = rf"{_SERVICES}\EventLog\Application"

_MESSAGES = r"%SystemRoot%\System32\EventCreate.exe"
"""Has the message "%1" for ids 1 to 1000, on every Windows (as used by golang.org/x/sys/windows/svc/eventlog)."""

_RESTARTS = (5_000, 30_000, 300_000)
"""Milliseconds before each restart after a failure; the last repeats. Soon at first, for problems during boot, then
seldom enough that a faulty config does not fill the event log."""

_FORGET_FAILURES = 24 * 3600
"""Seconds without a failure after which the delays start over."""

_STATES = {
    win32service.SERVICE_STOPPED: "stopped",
    win32service.SERVICE_START_PENDING: "starting",
    win32service.SERVICE_STOP_PENDING: "stopping",
    win32service.SERVICE_RUNNING: "running",
}

_STOP_TIMEOUT = 15.0
"""Seconds that a stopping service may take without progress, unless it asks for more."""

_NOT_ELEVATED = "only an administrator may install or remove a service"

_DELETE = 0x10000
"""The right to remove a service (DELETE in winnt.h)."""

_QUERY = win32service.SERVICE_QUERY_CONFIG | win32service.SERVICE_QUERY_STATUS


class WindowsServiceManager:
    """The service control manager of this machine."""

    def install(self, service: Installation) -> None:
        """As `ServiceManager.install`."""
        access = win32service.SC_MANAGER_CONNECT | win32service.SC_MANAGER_CREATE_SERVICE
        with _translated_errors(), _opened(win32service.OpenSCManager(None, None, access)) as manager:
            created = win32service.CreateService(
                manager,
                service.name,
                service.name,
                win32service.SERVICE_ALL_ACCESS,
                win32service.SERVICE_WIN32_OWN_PROCESS,
                win32service.SERVICE_AUTO_START,
                win32service.SERVICE_ERROR_NORMAL,
                subprocess.list2cmdline(service.command),
                None,
                False,
                None,
                service.account,
                None,
            )
            with _opened(created):
                try:
                    _configure(created, service)
                except BaseException:
                    win32service.DeleteService(created)
                    raise

    def uninstall(self, name: str) -> None:
        """As `ServiceManager.uninstall`."""
        with (
            _translated_errors(),
            _service(name, _QUERY | win32service.SERVICE_STOP | _DELETE) as handle,
        ):
            _stop(handle)
            win32service.DeleteService(handle)
            with suppress(FileNotFoundError):
                winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, rf"{_SOURCES}\{name}")

    def find(self, name: str) -> Installed | None:
        """As `ServiceManager.find`."""
        try:
            with _translated_errors(), _service(name, _QUERY) as handle:
                config = win32service.QueryServiceConfig(handle)
                status = _status(handle)
        except _NoServiceError:
            return None
        failure = status["Win32ExitCode"]
        if failure == winerror.ERROR_SERVICE_SPECIFIC_ERROR:
            failure = status["ServiceSpecificExitCode"]
        elif failure == winerror.ERROR_SERVICE_NEVER_STARTED:
            failure = 0
        state = _STATES.get(status["CurrentState"], "paused")
        return Installed(state, status["ProcessId"], failure, account=config[7], command=config[3])


class _NoServiceError(ServiceError):
    """There is no such service."""


def _configure(handle: Any, service: Installation) -> None:
    actions = [(win32service.SC_ACTION_RESTART, delay) for delay in _RESTARTS]
    settings: list[tuple[int, object]] = [
        (win32service.SERVICE_CONFIG_DESCRIPTION, _DESCRIPTION),
        (win32service.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, True),
        (
            win32service.SERVICE_CONFIG_FAILURE_ACTIONS,
            {"ResetPeriod": _FORGET_FAILURES, "RebootMsg": None, "Command": None, "Actions": actions},
        ),
        # A service that stops with an exit code has failed, not only one that crashed.
        (win32service.SERVICE_CONFIG_FAILURE_ACTIONS_FLAG, True),
        # Allows granting file access to NT SERVICE\NAME, whatever the account.
        (win32service.SERVICE_CONFIG_SERVICE_SID_INFO, win32service.SERVICE_SID_TYPE_UNRESTRICTED),
        # Only the privilege that every user has; in particular, not the right to impersonate clients.
        (win32service.SERVICE_CONFIG_REQUIRED_PRIVILEGES_INFO, ["SeChangeNotifyPrivilege"]),
    ]
    for level, value in settings:
        try:
            win32service.ChangeServiceConfig2(handle, level, value)
        except pywintypes.error as error:
            # Windows has had them all since Vista; Wine has two.
            if error.winerror != winerror.ERROR_INVALID_LEVEL:
                raise
    if service.environment:
        with winreg.OpenKey(
            winreg.HKEY_LOCAL_MACHINE, rf"{_SERVICES}\{service.name}", 0, winreg.KEY_SET_VALUE
        ) as key:
            variables = [f"{name}={value}" for name, value in service.environment.items()]
            winreg.SetValueEx(key, "Environment", 0, winreg.REG_MULTI_SZ, variables)
    with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, rf"{_SOURCES}\{service.name}") as key:
        winreg.SetValueEx(key, "EventMessageFile", 0, winreg.REG_EXPAND_SZ, _MESSAGES)
        winreg.SetValueEx(key, "TypesSupported", 0, winreg.REG_DWORD, 0x7)


def _stop(handle: Any) -> None:
    """Stop the service, after its start if it is just starting, and wait until it has stopped."""
    seen, deadline = None, 0.0
    while (status := _status(handle))["CurrentState"] != win32service.SERVICE_STOPPED:
        if status["CurrentState"] == win32service.SERVICE_RUNNING:
            _request_stop(handle)
        progress = status["CurrentState"], status["CheckPoint"]
        if progress != seen:
            seen, deadline = progress, time.monotonic() + max(status["WaitHint"] / 1000, _STOP_TIMEOUT)
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service does not stop; end its process {status['ProcessId']}, then try again"
            )
        time.sleep(0.1)


def _request_stop(handle: Any) -> None:
    try:
        win32service.ControlService(handle, win32service.SERVICE_CONTROL_STOP)
    except pywintypes.error as error:
        # It has stopped, or started to, since the status was read.
        if error.winerror not in (
            winerror.ERROR_SERVICE_NOT_ACTIVE,
            winerror.ERROR_SERVICE_CANNOT_ACCEPT_CTRL,
        ):
            raise


def _status(handle: Any) -> Any:
    return win32service.QueryServiceStatusEx(handle)


@contextmanager
def _service(name: str, access: int) -> Iterator[Any]:
    """Open one of hvbridge's own services, never another program's: a mistyped name must not remove that."""
    manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_CONNECT)
    with _opened(manager), _opened(win32service.OpenService(manager, name, access)) as handle:
        if " hvbridge service run " not in win32service.QueryServiceConfig(handle)[3]:
            raise ServiceError(
                f"the service {name} does not belong to hvbridge; pass the name of one that does with --name"
            )
        yield handle


@contextmanager
def _opened(handle: Any) -> Iterator[Any]:
    try:
        yield handle
    finally:
        win32service.CloseServiceHandle(handle)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise NotElevatedError(_NOT_ELEVATED) from error
    except OSError as error:
        raise ServiceError(f"the Windows registry reported: {error.strerror}") from error
    except pywintypes.error as error:
        match error.winerror:
            case winerror.ERROR_ACCESS_DENIED:
                raise NotElevatedError(_NOT_ELEVATED) from error
            case winerror.ERROR_SERVICE_DOES_NOT_EXIST:
                raise _NoServiceError("there is no such service") from error
            case winerror.ERROR_SERVICE_EXISTS | winerror.ERROR_DUPLICATE_SERVICE_NAME:
                raise ServiceError(
                    "a service of this name already exists; remove it first, or choose another name with --name"
                ) from error
            case winerror.ERROR_SERVICE_MARKED_FOR_DELETE:
                raise ServiceError(
                    "the service is being removed; close any windows that show services, or restart Windows"
                ) from error
            case _:
                raise ServiceError(f"the service control manager reported: {error.strerror}") from error
