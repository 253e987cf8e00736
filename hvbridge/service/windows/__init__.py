"""A bridge as a Windows service: the interface of a service manager, and its errors.

`manager` implements it, `host` and `lifecycle` are the service's own process, and `event_log` its log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Installation:
    """How to install a service."""

    name: str
    account: str
    """The account to run as, such as `NT SERVICE\\hvbridge`."""
    command: Sequence[str]
    """The command, as a list of words; the first is the absolute path of a program."""
    environment: Mapping[str, str]
    """Environment variables in addition to those of the machine."""


class Installed(NamedTuple):
    """The state of an installed service."""

    state: str
    """One of `running`, `stopped`, `starting`, `stopping`, `paused`."""
    process: int
    """Its process id; 0 if it has no process."""
    failure: int
    """The exit code of its last run; 0 if that succeeded, is still running, or never started."""
    account: str
    command: str


class ServiceError(Exception):
    """The service could not be managed, or hosted; ``str()`` says what is wrong."""


class NotElevatedError(ServiceError):
    """Only an administrator may do this."""


class ServiceManager(Protocol):
    """Manages the services of a machine. Every method raises `ServiceError`."""

    def install(self, service: Installation) -> None:
        """Install a service, completely or not at all; does not start it."""

    def uninstall(self, name: str) -> None:
        """Stop a service, wait until it has drained, and remove it."""

    def find(self, name: str) -> Installed | None:
        """Return the state of a service; None if it does not exist."""
