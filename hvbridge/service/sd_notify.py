"""Notifies systemd of the service's state: sd_notify(3) and sd_watchdog_enabled(3). Does nothing without systemd.

No library fits: systemd-watchdog has neither reload nor stop and may block the event loop, sdnotify has been
unmaintained since 2017, and systemd-python and cysystemd bind the C library for a few lines of text.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping

import trio

_SEND_TIMEOUT = 1.0
"""Seconds to wait for space in systemd's queue. This blocks the whole process, but the queue is rarely full."""


class Notifier:
    """Sends notifications to systemd. No method raises; without NOTIFY_SOCKET in ``environ``, none does anything.

    ``on_failure`` is called with the error if a notification fails.
    """

    def __init__(
        self, environ: Mapping[str, str] = os.environ, on_failure: Callable[[OSError], None] = lambda _: None
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._on_failure = on_failure

    def ready(self) -> None:
        """Every listener is bound."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload has started; `reloaded` must follow, whether or not anything changes."""
        # The time identifies the request that this answers (Type=notify-reload).
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The reload has finished."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The shutdown has started."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show ``text`` in `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")  # each line is one assignment

    def alive(self) -> None:
        """The event loop is running: see `watch`."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address or sys.platform == "win32":
            return
        address = os.fsencode(self._address)
        if address.startswith(b"@"):  # the abstract namespace
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_TIMEOUT)
                sock.connect(address)
                sock.sendall(message.encode("utf-8", "replace"))
        except OSError as error:
            self._on_failure(error)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """The watchdog timeout in seconds; None if systemd does not watch this process (no WatchdogSec=)."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 or None if _is_decimal(microseconds) else None


async def watch(notifier: Notifier, seconds: float | None) -> None:
    """Notify systemd twice per ``seconds`` that the event loop is running, until cancelled; return at once if None.

    This is an ordinary task, so it stops if the event loop hangs.
    """
    while seconds is not None:
        notifier.alive()
        await trio.sleep(seconds / 2)


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
