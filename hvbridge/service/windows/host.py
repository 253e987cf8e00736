"""The process of a Windows service, started by the service control manager: its pywin32 calls.

`lifecycle` is what the service does, and `manager` installs it.
"""

import sys

if sys.platform != "win32":
    raise ImportError("Windows services exist only on Windows")

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pywintypes
import servicemanager
import win32evtlog
import win32service
import winerror

from hvbridge.service.windows import ServiceError
from hvbridge.service.windows.event_log import EventId, Log, WarningHandler
from hvbridge.service.windows.lifecycle import Service, State, Status

_LONGEST_EVENT = 30_000
"""Characters; ReportEvent accepts 31 839."""


def host(make: Callable[[Callable[[Status], None], Log], Service]) -> None:
    """Run a service in this process, which then exits; ``make`` gets the functions that report status and log events.

    Raises:
        ServiceError: the service control manager has not started this process.
    """

    class Hosted:
        """Created by servicemanager in the thread of the service; called there and in servicemanager's own."""

        def __init__(self, arguments: list[str]) -> None:
            name = arguments[0]
            log = _open_event_log(name)
            logging.getLogger().handlers = [WarningHandler(log)]
            self._service = make(lambda status: _report_status(self._handle, status), log)
            self._handle = servicemanager.RegisterServiceCtrlHandler(name, self._control, True)

        def SvcRun(self) -> None:  # noqa: N802 - servicemanager calls it by this name
            self._service.run()
            # The final status has been reported; servicemanager would now report success.
            os._exit(0)

        def _control(self, code: int, _event: int, _data: object) -> int:
            self._service.control(code)
            return winerror.NO_ERROR

    servicemanager.PrepareToHostSingle(Hosted)
    dispatch: Callable[[], None] = servicemanager.StartServiceCtrlDispatcher  # its stub is untyped
    try:
        dispatch()
    except pywintypes.error as error:
        if error.winerror != winerror.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT:
            raise
        raise ServiceError(
            "only the service control manager of Windows can start this; use `hvbridge run` instead"
        ) from error


def _report_status(handle: Any, status: Status) -> None:
    accepted = 0
    if status.state is State.RUNNING:
        accepted = win32service.SERVICE_ACCEPT_STOP | win32service.SERVICE_ACCEPT_SHUTDOWN
    win32service.SetServiceStatus(
        handle,
        (
            win32service.SERVICE_WIN32_OWN_PROCESS,
            status.state,
            accepted,
            winerror.ERROR_SERVICE_SPECIFIC_ERROR if status.exit_code else winerror.NO_ERROR,
            status.exit_code,
            status.checkpoint,
            min(round(status.wait_hint * 1000), 0xFFFFFFFF),
        ),
    )


def _open_event_log(name: str) -> Log:
    source = win32evtlog.RegisterEventSource(None, name)

    def log(event: EventId, text: str) -> None:
        # A percent sign before a digit, as in fe80::1%4, would be read as an insert ("ReportEvent function").
        text = re.sub(r"%(?=\d)", "% ", text)[:_LONGEST_EVENT]
        with suppress(pywintypes.error):  # a full log must not end the bridge
            win32evtlog.ReportEvent(source, event.severity, 0, event, None, [text], None)

    return log
