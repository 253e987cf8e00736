"""A client of a running bridge's admin endpoint, for `status`, `top` and `reload`.

Finds the endpoint and its token, and turns every failure into a message for the user. The shapes of the answers are in
`admin.schemas`.
"""

import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hvbridge.address.endpoint import Endpoint, TcpEndpoint, UnixEndpoint, parse_endpoint
from hvbridge.address.placement import connect_fault
from hvbridge.admin.schemas import Error, Faults, ForwardView, Readiness, Reloaded, Status
from hvbridge.admin.stats import Closing
from hvbridge.admin.tokens import checked_token, read_token
from hvbridge.cli.errors import exit_code
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.proxy.control import ConnectionState, ReloadError
from hvbridge.text import escaped
from hvbridge.transport.errors import Cause, dial_cause, error_text

TOKEN_VARIABLE = "HVBRIDGE_ADMIN_TOKEN"  # noqa: S105 - its name, not a token

TIMEOUT = 5.0
"""Seconds for a read: the bridge is on this machine, or near."""
_CHANGE_TIMEOUT = 60.0
"""Seconds for a change, which may wait for names to be resolved and for listeners to be bound."""

_TO_CONNECT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""How to reach a listener on all addresses from this machine."""

_ERROR_ADAPTER = TypeAdapter(Error)

T = TypeVar("T")


class AdminError(Exception):
    """The bridge could not be queried, or refused the request; the text is a message for the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The bridge's answer to one request."""

    status: int
    body: Any


class AdminClient:
    """Queries one bridge. Each request has a connection of its own, because the bridge may restart in between.

    Every method raises `AdminError`.
    """

    def __init__(self, endpoint: TcpEndpoint | UnixEndpoint, token: str | None = None) -> None:
        self.endpoint = endpoint
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._has_token = token is not None

    def status(self) -> Status:
        """The bridge as a whole."""
        return self.read(Status, self.get("/api/v1/status"))

    def forwards(self) -> list[ForwardView]:
        """Every forward, in the order of the config."""
        return self.read(list[ForwardView], self.get("/api/v1/forwards"))

    def connections(self) -> list[ConnectionState]:
        """The open connections."""
        return self.read(list[ConnectionState], self.get("/api/v1/connections"))

    def closings(self) -> list[Closing]:
        """The most recently closed connections, newest first."""
        return self.read(list[Closing], self.get("/api/v1/closings"))

    def unready(self) -> Mapping[str, str]:
        """Why the bridge is not ready, by forward name; empty when it is ready."""
        answer = self._ask("GET", "/readyz", TIMEOUT)
        if answer.status == http.client.OK:
            return {}
        if answer.status != http.client.SERVICE_UNAVAILABLE:
            raise self._refusal(answer)
        return self.read(Readiness, answer.body).forwards

    def reload(self) -> str:
        """Make the bridge reload its config; return what changed. Also raises `ReloadError`."""
        answer = self._ask("POST", "/api/v1/reload", _CHANGE_TIMEOUT)
        if answer.status == http.client.UNPROCESSABLE_ENTITY:
            raise ReloadError(self.read(Faults, answer.body).faults)
        if answer.status != http.client.OK:
            raise self._refusal(answer)
        return self.read(Reloaded, answer.body).changed

    def get(self, path: str) -> Any:
        """Return the JSON document at ``path``."""
        answer = self._ask("GET", path, TIMEOUT)
        if answer.status != http.client.OK:
            raise self._refusal(answer)
        return answer.body

    def read(self, shape: type[T], body: Any) -> T:
        """Validate ``body`` as a ``shape``."""
        try:
            return TypeAdapter(shape).validate_python(body)
        except ValidationError as error:
            raise self._not_hvbridge() from error

    def _ask(self, method: str, path: str, timeout: float) -> Answer:
        with closing(_connection(self.endpoint, timeout)) as connection:
            try:
                connection.connect()
            except OSError as error:
                raise self._unreachable(error) from error
            try:
                connection.request(method, path, headers=self._headers)
                response = connection.getresponse()
                return Answer(response.status, _json(response.read()))
            except TimeoutError as error:
                raise AdminError(f"{self.endpoint} did not answer within {timeout:g} s") from error
            except (http.client.HTTPException, OSError) as error:
                raise self._not_hvbridge() from error

    def _unreachable(self, error: OSError) -> AdminError:
        cause = Cause.TIMED_OUT if isinstance(error, TimeoutError) else dial_cause(self.endpoint, error)
        if isinstance(error, socket.gaierror):
            cause = Cause.NAME_UNKNOWN
        if cause in (Cause.REFUSED, Cause.NOBODY_LISTENING):
            return AdminError(
                f"nothing is listening on {self.endpoint}; is hvbridge running, and did its config have [admin] "
                "when it started?"
            )
        if cause is Cause.NOT_PERMITTED and isinstance(self.endpoint, UnixEndpoint):
            return AdminError(
                f"this user may not open {self.endpoint}; run this as the user that hvbridge runs as, or as root"
            )
        return AdminError(f"cannot connect to {self.endpoint}: {cause} ({error_text(error)})")

    def _refusal(self, answer: Answer) -> AdminError:
        """The error that an unsuccessful answer means."""
        if answer.status == http.client.UNAUTHORIZED:
            what = "rejected this token" if self._has_token else "requires a token"
            return AdminError(
                f"{self.endpoint} {what}; pass the one in its [admin] token_file with --token-file FILE "
                f"or {TOKEN_VARIABLE}"
            )
        try:
            reason = _ERROR_ADAPTER.validate_python(answer.body).error
        except ValidationError:
            return self._not_hvbridge()
        return AdminError(f"{self.endpoint} answered: {escaped(reason)}")

    def _not_hvbridge(self) -> AdminError:
        return AdminError(
            f"the service on {self.endpoint} is not the admin endpoint of this version of hvbridge; "
            "compare it with listen under [admin] in the config"
        )


@exit_code(AdminError)
def with_admin(
    config: Path, admin: str | None, token_file: Path | None, work: Callable[[AdminClient], int]
) -> int:
    """Call ``work`` with the client that a command's options name; return the exit code."""
    return work(admin_client(config, admin, token_file, os.environ))


def admin_client(
    config: Path, admin: str | None, token_file: Path | None, environ: Mapping[str, str]
) -> AdminClient:
    """Return a client for the endpoint ``admin`` or, by default, for the one in the config.

    The token comes from ``token_file``, else from the environment, else from the config's own token file.

    Raises:
        ConfigError: the config is needed and has faults.
        ValueError: there is no usable endpoint, or a token cannot be read.
    """
    endpoint: Endpoint
    if admin is None:
        settings = load_for_any_machine(config).admin
        if settings is None:
            raise ValueError(
                f"{config} has no [admin] table, so its bridge cannot be queried; add [admin] with listen = "
                '"tcp://127.0.0.1:9180" and restart hvbridge, or pass --admin URL'
            )
        endpoint = settings.listen
        if isinstance(endpoint, TcpEndpoint):
            endpoint = TcpEndpoint(_TO_CONNECT.get(endpoint.host, endpoint.host), endpoint.port)
        own_token_file = settings.token_file
    else:
        endpoint, own_token_file = parse_endpoint(admin), None
    if not isinstance(endpoint, TcpEndpoint | UnixEndpoint):
        raise ValueError(f"{endpoint} is not an admin endpoint; write tcp://HOST:PORT or unix:///PATH")
    if fault := _fault(endpoint):
        raise ValueError(f"cannot query {endpoint}: {fault}")
    if token_file is not None:
        return AdminClient(endpoint, read_token(token_file))
    if environ.get(TOKEN_VARIABLE):
        return AdminClient(endpoint, checked_token(environ[TOKEN_VARIABLE], TOKEN_VARIABLE))
    return AdminClient(endpoint, None if own_token_file is None else read_token(Path(own_token_file)))


def _fault(endpoint: TcpEndpoint | UnixEndpoint) -> str | None:
    if isinstance(endpoint, UnixEndpoint) and sys.platform == "win32":
        return (
            'Python has no Unix-domain sockets on Windows; set listen = "tcp://127.0.0.1:9180" under [admin]'
        )
    return connect_fault(endpoint)


def _connection(endpoint: TcpEndpoint | UnixEndpoint, timeout: float) -> http.client.HTTPConnection:
    if isinstance(endpoint, TcpEndpoint):
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout)
    return _UnixConnection(endpoint.path, timeout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        if sys.platform != "win32":  # where `_fault` has refused it
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)


def _json(body: bytes) -> Any:
    """Parse ``body``; None, which no schema accepts, when it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
