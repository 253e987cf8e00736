"""Services of a Hyper-V host: which ids it may use, and by what names people know them.

Owns: what a registry of services is, its errors, and the rules of matching a name. Refuses: where one is kept
(`windows`, and the emulator's own), and how a registration is written down for another machine (`export`).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from hvbridge.text import quote


class Service(NamedTuple):
    """A registered service."""

    id: UUID
    name: str
    """The friendly name, for people and for endpoints; "" where it has none."""


class RegistrationError(Exception):
    """The registry could not be read or changed; ``str()`` is what is wrong."""


class NotElevatedError(RegistrationError):
    """Only an administrator may change the registry."""


class ServiceNames(Protocol):
    """The services of a host, to look up. Every call is quick, and raises `RegistrationError`."""

    def services(self) -> list[Service]:
        """List what is registered, in no order; several services may have one name."""


class ServiceRegistry(ServiceNames, Protocol):
    """The services of a host, to change, too."""

    def register(self, service: Service) -> None:
        """Register a service, or give a registered one its new name."""

    def unregister(self, service_id: UUID) -> None:
        """Remove a service; nothing happens where it is not registered."""


def find(name: str, services: Sequence[Service]) -> Service | None:
    """Return the service called ``name``, as it is written or else in any case; None when there is none.

    Raises:
        ValueError: several are called so; the text is "what is wrong; what to write".
    """
    matches = [service for service in services if service.name == name]
    matches = matches or [service for service in services if service.name.casefold() == name.casefold()]
    if len(matches) > 1:
        choices = ", ".join(str(service.id) for service in matches)
        raise ValueError(f"{len(matches)} services are named {quote(name)}; write the id of one: {choices}")
    return matches[0] if matches else None
