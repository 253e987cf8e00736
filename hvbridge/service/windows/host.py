"""The process of a Windows service: started by the service control manager, and heard in the event log.

Owns: the calls of pywin32 that such a process makes. Refuses: what the service does (`lifecycle`), and installing
it (`manager`).
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
"""Characters; ReportEvent takes 31 839 of them."""


def host(make: Callable[[Callable[[Status], None], Log], Service]) -> None:
    """Be the process of a service, which ends with it; ``make`` is given how to tell its status, and its log.

    Raises:
        ServiceError: the service control manager has not started this process.
    """

    class Hosted:
        """What servicemanager makes, in the thread of the service, and calls there and in its own."""

        def __init__(self, arguments: list[str]) -> None:
            name = arguments[0]
            log = _open_event_log(name)
            logging.getLogger().handlers = [WarningHandler(log)]
            self._service = make(lambda status: _tell(self._handle, status), log)
            self._handle = servicemanager.RegisterServiceCtrlHandler(name, self._control, True)

        def SvcRun(self) -> None:  # noqa: N802 - servicemanager calls it by this name
            self._service.run()
            # The manager knows how it ended; servicemanager would go on to tell it that all went well.
            os._exit(0)

        def _control(self, code: int, _event: int, _data: object) -> int:
            self._service.control(code)
            return winerror.NO_ERROR

    servicemanager.PrepareToHostSingle(Hosted)
    dispatch: Callable[[], None] = servicemanager.StartServiceCtrlDispatcher  # its stub has no types
    try:
        dispatch()
    except pywintypes.error as error:
        if error.winerror != winerror.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT:
            raise
        raise ServiceError(
            "only the service control manager of Windows can start this; use `hvbridge run` instead"
        ) from error


def _tell(handle: Any, status: Status) -> None:
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
        # A percent sign before a digit, as in fe80::1%4, would be taken for an insert ("ReportEvent function").
        text = re.sub(r"%(?=\d)", "% ", text)[:_LONGEST_EVENT]
        with suppress(pywintypes.error):  # a full log must not end the bridge
            win32evtlog.ReportEvent(source, event.severity, 0, event, None, [text], None)

    return log
