"""What systemd and a service of it tell each other: readiness and a heartbeat one way, listening sockets the other.

Owns: the protocols of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), of which nothing happens in a process
that systemd did not start. Refuses: deciding when to say what, and what a socket is used for (`transport.systemd`).

No library does all of it: systemd-watchdog knows neither reload nor stop nor sockets and may block the event loop,
sdnotify rests since 2017, and systemd-python and cysystemd bind the C library, for what is a few lines of text.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import cache

import trio

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of systemd/sd-daemon.h."""

_UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket to which no name was passed."""

_PATIENCE = 1.0
"""Seconds to wait for room in systemd's queue, in which the whole process waits; it is full for moments only."""


class Notifier:
    """Tells systemd how the service fares. No method raises; without NOTIFY_SOCKET in ``environ`` none does anything.

    ``on_failure`` is called with the error when systemd cannot be told something.
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
        """The config is being read again; `reloaded` must follow, whether or not anything was changed."""
        # The time tells systemd which of its requests this answers (Type=notify-reload).
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The config has been read again."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show ``text`` in `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")  # a line is an assignment

    def alive(self) -> None:
        """The event loop runs: see `watch`."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address or sys.platform == "win32":
            return
        address = os.fsencode(self._address)
        if address.startswith(b"@"):  # the abstract namespace
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(address)
                sock.sendall(message.encode("utf-8", "replace"))
        except OSError as error:
            self._on_failure(error)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds of silence after which systemd ends this process; None where it does not watch (no WatchdogSec=)."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 or None if _is_decimal(microseconds) else None


async def watch(notifier: Notifier, seconds: float | None) -> None:
    """Tell systemd twice in ``seconds`` that the event loop runs, until cancelled; return at once without it.

    It is a task like any other, so that a loop that hangs is silent.
    """
    while seconds is not None:
        notifier.alive()
        await trio.sleep(seconds / 2)


def systemd_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Take over the listening stream sockets that systemd passed to this process, by their FileDescriptorName=.

    The caller closes them. Other descriptors are left alone, but kept from child processes as these are. The variables
    are unset, so that no child takes the descriptors for its own, and a second call finds nothing.
    """
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not _is_decimal(count):
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    of_each = names.split(":") if names else []
    for index in range(int(count)):
        try:
            os.set_inheritable(_FIRST_DESCRIPTOR + index, False)
            sock = socket.socket(fileno=_FIRST_DESCRIPTOR + index)
        except OSError:  # none is open there, or it is a FIFO or a file
            continue
        if _listens(sock):
            sockets.setdefault(of_each[index] if index < len(of_each) else _UNNAMED, []).append(sock)
        else:
            sock.detach()
    return sockets


@cache
def inherited_sockets() -> Mapping[str, list[socket.socket]]:
    """`systemd_sockets` of this process, taken once and open for as long as it lives."""
    return systemd_sockets()


def _listens(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
