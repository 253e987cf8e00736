"""Service registries of Hyper-V hosts: the interface, its errors, and looking up a service by name.

`windows` and the emulator implement registries; `export` writes registrations for another machine.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from hvbridge.text import quote


class Service(NamedTuple):
    """A registered service."""

    id: UUID
    name: str
    """The friendly name, also for use in endpoints; "" if it has none."""


class RegistrationError(Exception):
    """The registry could not be read or changed; ``str()`` says what is wrong."""


class NotElevatedError(RegistrationError):
    """Only an administrator may change the registry."""


class ServiceNames(Protocol):
    """The services of a host, for lookups. Calls are fast, and raise `RegistrationError`."""

    def services(self) -> list[Service]:
        """List the registered services, in no particular order; names may repeat."""


class ServiceRegistry(ServiceNames, Protocol):
    """The services of a host, for lookups and changes."""

    def register(self, service: Service) -> None:
        """Register a service, or rename a registered one."""

    def unregister(self, service_id: UUID) -> None:
        """Remove a service; does nothing if it is not registered."""


def find(name: str, services: Sequence[Service]) -> Service | None:
    """Return the service named ``name``, by exact match or else ignoring case; None if there is none.

    Raises:
        ValueError: several services match; the text is "what is wrong; what to write".
    """
    matches = [service for service in services if service.name == name]
    matches = matches or [service for service in services if service.name.casefold() == name.casefold()]
    if len(matches) > 1:
        choices = ", ".join(str(service.id) for service in matches)
        raise ValueError(f"{len(matches)} services are named {quote(name)}; write the id of one: {choices}")
    return matches[0] if matches else None
