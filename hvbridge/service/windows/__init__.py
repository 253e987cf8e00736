"""A bridge as a Windows service: installed once, started at boot, told to stop, heard in the event log.

Owns: what a service manager is, and its errors. Refuses: Windows itself (`windows`), what a service does between
its start and its stop (`lifecycle`), and what it says (`events`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Installation:
    """What a service manager is told of a service."""

    name: str
    account: str
    """The account that it runs as, such as `NT SERVICE\\hvbridge`."""
    command: Sequence[str]
    """The words of its command; the first is the absolute path of a program."""
    environment: Mapping[str, str]
    """Variables that it has beside those of the machine."""


class Installed(NamedTuple):
    """A service as its manager knows it."""

    state: str
    """In words: `running`, `stopped`, `starting`, `stopping`, `paused`."""
    process: int
    """The id of its process; 0 when it has none."""
    failure: int
    """The exit code of its last run; 0 when it went well, has not ended, or never began."""
    account: str
    command: str


class ServiceError(Exception):
    """The service could not be managed, or hosted; ``str()`` is what is wrong."""


class NotElevatedError(ServiceError):
    """Only an administrator may do this."""


class ServiceManager(Protocol):
    """The services of a machine. Every call raises `ServiceError`."""

    def install(self, service: Installation) -> None:
        """Install a service, which is not started; wholly or not at all."""

    def uninstall(self, name: str) -> None:
        """Stop a service, wait for as long as it goes on draining, and remove it."""

    def find(self, name: str) -> Installed | None:
        """Return what is known of a service; None where there is none."""
