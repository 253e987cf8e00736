"""Errors of dials and listeners: the causes, the error numbers that map to them, and advice for each.

Callers decide by `Cause` whether to retry.
"""

import errno
import os
from enum import StrEnum

from hvbridge.address.endpoint import (
    Endpoint,
    HypervEndpoint,
    NamedHypervEndpoint,
    SystemdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    VsockEndpoint,
)
from hvbridge.text import Problem


class Cause(StrEnum):
    """Why a dial or a listen failed; the value is the text in messages."""

    NOT_RUNNING = "the VM is not running"
    VM_NOT_STARTED = "the VM could not be started"
    NOBODY_LISTENING = "no answer from that service"
    REFUSED = "the connection was refused"
    NOT_PERMITTED = "not permitted, or the service is not registered"
    OUT_OF_MEMORY = "out of memory for socket buffers"
    OUT_OF_DESCRIPTORS = "out of file descriptors"
    TIMED_OUT = "timed out"
    UNREACHABLE = "no route to that address"
    NAME_UNKNOWN = "the name cannot be found"
    IN_USE = "the address is in use"
    NO_DIRECTORY = "its directory does not exist"
    ADDRESS_NOT_LOCAL = "that address is not on this machine"
    EXPOSED = "other machines could connect"
    NOT_PASSED = "systemd passed no listening stream socket of this name"
    BUSY = "too many dials are pending"
    WRONG_ANSWER = "it is not the expected service"
    UNAVAILABLE = "this machine does not support that transport"
    UNKNOWN = "the system call failed"


# Winsock numbers besides errno: CPython maps only some of them, and trio reports SO_ERROR unchanged.
_WSA = {
    10013: Cause.NOT_PERMITTED,  # WSAEACCES
    10024: Cause.OUT_OF_DESCRIPTORS,  # WSAEMFILE
    10048: Cause.IN_USE,  # WSAEADDRINUSE
    10049: Cause.ADDRESS_NOT_LOCAL,  # WSAEADDRNOTAVAIL
    10050: Cause.UNREACHABLE,  # WSAENETDOWN
    10051: Cause.UNREACHABLE,  # WSAENETUNREACH
    10055: Cause.OUT_OF_MEMORY,  # WSAENOBUFS
    10060: Cause.TIMED_OUT,  # WSAETIMEDOUT
    10061: Cause.REFUSED,  # WSAECONNREFUSED
    10065: Cause.UNREACHABLE,  # WSAEHOSTUNREACH
}
_ERRNO = {
    errno.EMFILE: Cause.OUT_OF_DESCRIPTORS,
    errno.ENFILE: Cause.OUT_OF_DESCRIPTORS,
    errno.EACCES: Cause.NOT_PERMITTED,
    errno.EPERM: Cause.NOT_PERMITTED,
    errno.EADDRINUSE: Cause.IN_USE,
    errno.EADDRNOTAVAIL: Cause.ADDRESS_NOT_LOCAL,
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ENOENT: Cause.NOBODY_LISTENING,  # a Unix socket that does not exist
    errno.ETIMEDOUT: Cause.TIMED_OUT,
    errno.ENETUNREACH: Cause.UNREACHABLE,
    errno.EHOSTUNREACH: Cause.UNREACHABLE,
    errno.ENETDOWN: Cause.UNREACHABLE,
    errno.ENOMEM: Cause.OUT_OF_MEMORY,
    errno.ENOBUFS: Cause.OUT_OF_MEMORY,
    errno.EAFNOSUPPORT: Cause.UNAVAILABLE,
    errno.ENODEV: Cause.UNAVAILABLE,  # vsock: no transport carries that CID
}
# Numbers with a special meaning in one family.
_HYPERV_DIAL = {
    10049: Cause.NOT_RUNNING,  # openvmm: the VM is off, or not up yet
    10050: Cause.NOT_RUNNING,  # while a VM reboots
    10051: Cause.NOT_RUNNING,
    10060: Cause.NOBODY_LISTENING,  # a Linux guest does not respond
    10061: Cause.REFUSED,  # a Windows guest, or loopback
    errno.EADDRNOTAVAIL: Cause.NOT_RUNNING,
    errno.ENETUNREACH: Cause.NOT_RUNNING,
    errno.ETIMEDOUT: Cause.NOBODY_LISTENING,
}
_VSOCK_DIAL = {
    errno.ECONNRESET: Cause.NOBODY_LISTENING,  # virtio answers a closed port with a reset
    errno.ETIMEDOUT: Cause.NOBODY_LISTENING,
}

_REGISTER = (
    "on the host, run once as administrator: hvbridge services register --from CONFIG; "
    "and add the user to Hyper-V Administrators"
)
_LISTEN_THERE = "start hvbridge, or another listener for this service, on the other side"
_ADVICE_DIAL: dict[type[Endpoint], dict[Cause, str]] = {
    HypervEndpoint: {
        Cause.NOT_RUNNING: "start the VM or wait until it has booted, and check its id: (Get-VM -Name NAME).Id",
        Cause.NOBODY_LISTENING: f"{_LISTEN_THERE}, or raise dial_timeout",
        Cause.REFUSED: _LISTEN_THERE,
        Cause.NOT_PERMITTED: _REGISTER,
        Cause.OUT_OF_MEMORY: "close other connections, or set a smaller `buffer` on the listener",
    },
    VsockEndpoint: {
        Cause.NOBODY_LISTENING: "start a listener on that port on the other side",
        Cause.UNAVAILABLE: "load a vsock transport first: modprobe hv_sock, or vsock_loopback for CID 1",
        Cause.NOT_PERMITTED: "check the user's permission to use AF_VSOCK",
    },
    TcpEndpoint: {
        Cause.REFUSED: "start the service there, or correct the port",
        Cause.TIMED_OUT: "check the host and the port, and that no firewall drops the packets",
        Cause.UNREACHABLE: "check the address and this machine's routes",
        Cause.NAME_UNKNOWN: "correct the host name, or write its IP address",
    },
    UnixEndpoint: {
        Cause.NOBODY_LISTENING: "start the service that creates this socket, or correct the path",
        Cause.REFUSED: "the socket file exists, but its service is gone: start the service",
        Cause.NOT_PERMITTED: "give this user read and write permission on the socket",
    },
    SystemdEndpoint: {},
}
_ADVICE_LISTEN: dict[type[Endpoint], dict[Cause, str]] = {
    HypervEndpoint: {
        Cause.IN_USE: "stop the other listener, or use another service id (hvbridge guid generates one)",
        Cause.ADDRESS_NOT_LOCAL: "listen on parent only inside a VM or container; "
        "on a host, listen on a VM's id or on children",
        Cause.NOT_PERMITTED: _REGISTER,
    },
    VsockEndpoint: {
        Cause.IN_USE: "stop the other listener, or use another port",
        Cause.NOT_PERMITTED: "ports up to 1023 need CAP_NET_BIND_SERVICE: run with it, or use a higher port",
        Cause.UNAVAILABLE: "load the vsock module first: modprobe hv_sock",
        Cause.ADDRESS_NOT_LOCAL: "listen on `any`, or on this machine's own CID",
    },
    TcpEndpoint: {
        Cause.IN_USE: "stop the program that uses the port, or use another port",
        Cause.NOT_PERMITTED: "use a port above 1023, or one that Windows has not reserved "
        "(netsh int ipv4 show excludedportrange tcp)",
        Cause.ADDRESS_NOT_LOCAL: "use an address of this machine, such as 127.0.0.1",
        Cause.NAME_UNKNOWN: "correct the host name, or write an IP address",
    },
    UnixEndpoint: {
        Cause.IN_USE: "stop the program that listens there, or use another path",
        Cause.NO_DIRECTORY: "create the directory first",
        Cause.NOT_PERMITTED: "use a directory that this user may write to",
    },
    SystemdEndpoint: {
        Cause.NOT_PASSED: "write a .socket unit with ListenStream= and this name as FileDescriptorName=, "
        "and start hvbridge through it",
    },
}
_ADVICE_ANY = {
    Cause.OUT_OF_MEMORY: "close other connections, or raise the system's limits",
    Cause.OUT_OF_DESCRIPTORS: "raise the limit of open files (ulimit -n), or lower max_connections",
    Cause.UNKNOWN: "look up the error number in the system's documentation",
}


class TransportError(Exception):
    """A dial or a listen failed. ``str()`` is a complete message: operation, endpoint, cause, error, advice."""

    operation: str
    advice_table: dict[type[Endpoint], dict[Cause, str]]

    def __init__(
        self,
        endpoint: Endpoint,
        cause: Cause,
        error: OSError | None = None,
        advice: str = "",
        *,
        problem: Problem | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.cause = cause
        self.error = error
        self.problem = problem
        """Further details, with their own advice."""
        kind = HypervEndpoint if isinstance(endpoint, NamedHypervEndpoint) else type(endpoint)
        self.advice = (
            advice
            or (problem.advice if problem else "")
            or self.advice_table[kind].get(cause)
            or _ADVICE_ANY.get(cause, "")
        )
        super().__init__(endpoint, cause)

    @property
    def why(self) -> str:
        """The cause with its details, and the system's error number and text if there is one."""
        why = f"{self.cause}: {self.problem.what}" if self.problem else str(self.cause)
        return why if self.error is None else f"{why} ({error_text(self.error)})"

    def __str__(self) -> str:
        message = f"cannot {self.operation} {self.endpoint}: {self.why}"
        return f"{message}; {self.advice}" if self.advice else message


class DialError(TransportError):
    """A connection could not be made."""

    operation = "dial"
    advice_table = _ADVICE_DIAL


class ListenError(TransportError):
    """A listener could not be bound."""

    operation = "listen on"
    advice_table = _ADVICE_LISTEN


def error_number(error: OSError) -> int:
    """Return the Winsock number of ``error`` if it has one, else errno, else 0.

    CPython maps a few Winsock errors (10013 becomes errno 13), but trio reports SO_ERROR as errno 10013 without a
    winerror: both forms occur.
    """
    return getattr(error, "winerror", None) or error.errno or 0


def error_text(error: OSError) -> str:
    """Return the error in the notation of its system: ``WinError 10049`` or ``errno 111: Connection refused``."""
    number = error_number(error)
    if number >= 10000:
        return f"WinError {number}"
    return f"errno {number}: {os.strerror(number)}" if number else str(error)


def dial_cause(endpoint: Endpoint, error: OSError) -> Cause:
    """Classify a failed connect on ``endpoint``'s family."""
    own: dict[int, Cause] = {}
    if isinstance(endpoint, HypervEndpoint):
        own = _HYPERV_DIAL
    elif isinstance(endpoint, VsockEndpoint):
        own = _VSOCK_DIAL
    number = error_number(error)
    return own.get(number) or _WSA.get(number) or _ERRNO.get(number, Cause.UNKNOWN)


def listen_cause(error: OSError) -> Cause:
    """Classify a failed bind or listen."""
    number = error_number(error)
    if number == errno.ENOENT:
        return Cause.NO_DIRECTORY
    return _WSA.get(number) or _ERRNO.get(number, Cause.UNKNOWN)
