"""The service registry of the emulated host: a file per service, named by its id, containing its friendly name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from hvbridge.hyperv.guid import parse_guid
from hvbridge.hyperv.services import RegistrationError, Service


class EmulatorRegistry:
    """The services that are registered on an emulated host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "registered"

    def services(self) -> list[Service]:
        """As `ServiceRegistry.services`."""
        with _translated_errors():
            files = list(self._directory.iterdir()) if self._directory.is_dir() else []
            found = [(parse_guid(file.name), file.read_text("utf-8", "replace")) for file in files]
        return [Service(service_id, name) for service_id, name in found if service_id is not None]

    def register(self, service: Service) -> None:
        """As `ServiceRegistry.register`."""
        with _translated_errors():
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(exist_ok=True)
            (self._directory / str(service.id)).write_text(service.name, encoding="utf-8")

    def unregister(self, service_id: UUID) -> None:
        """As `ServiceRegistry.unregister`."""
        with _translated_errors():
            (self._directory / str(service_id)).unlink(missing_ok=True)

    def has(self, service_id: UUID) -> bool:
        """Whether a service is registered."""
        return (self._directory / str(service_id)).exists()


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistrationError(f"the emulator's directory cannot be used: {error}") from error
