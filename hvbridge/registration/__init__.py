"""Services of a Hyper-V host: which ids it may use, and by what names people know them.

Owns: what a registry of services is, and its errors. Refuses: where one is kept (`windows`, and the emulator's
own), and how a registration is written down for another machine (`export`).
"""

from typing import NamedTuple, Protocol
from uuid import UUID


class Service(NamedTuple):
    """A registered service."""

    id: UUID
    name: str
    """The friendly name, for people and for endpoints; "" where it has none."""


class RegistrationError(Exception):
    """The registry could not be read or changed; ``str()`` is what is wrong."""


class NotElevatedError(RegistrationError):
    """Only an administrator may change the registry."""


class ServiceRegistry(Protocol):
    """The services of a host. Every call is quick, and raises `RegistrationError`."""

    def services(self) -> list[Service]:
        """List what is registered, in no order; several services may have one name."""

    def register(self, service: Service) -> None:
        """Register a service, or give a registered one its new name."""

    def unregister(self, service_id: UUID) -> None:
        """Remove a service; nothing happens where it is not registered."""
