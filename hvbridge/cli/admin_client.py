"""What `status`, `top` and `reload` share: asking a running bridge by its admin endpoint.

Owns: where that endpoint is, the token for it, and a sentence for whatever goes wrong.
Refuses: the shape of the answers (`admin.views`), and what is shown of them.
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

_TIMEOUT = 5.0
"""Seconds for an answer about what is: the bridge is on this machine, or near."""
_TIMEOUT_OF_CHANGE = 60.0
"""Seconds for a change, which may wait for names to be resolved and for listeners to be bound."""

_TO_CONNECT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A listener on every address is reached on this machine's own."""

_SHAPE_OF_ERROR = TypeAdapter(Error)

T = TypeVar("T")


class AdminError(Exception):
    """The bridge could not be asked, or refused; the text is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the bridge said to one request."""

    status: int
    body: Any


class AdminClient:
    """Asks one bridge, by a connection for each question: it may be started anew between two of them.

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
        """The connections that live."""
        return self.read(list[ConnectionState], self.get("/api/v1/connections"))

    def closings(self) -> list[Closing]:
        """The connections that closed last, newest first."""
        return self.read(list[Closing], self.get("/api/v1/closings"))

    def unready(self) -> Mapping[str, str]:
        """Why the bridge is not ready, by the names of its forwards; empty when it is."""
        answer = self._ask("GET", "/readyz", _TIMEOUT)
        if answer.status == http.client.OK:
            return {}
        if answer.status != http.client.SERVICE_UNAVAILABLE:
            raise self._refusal(answer)
        return self.read(Readiness, answer.body).forwards

    def reload(self) -> str:
        """Let it read its config again; return what changed. Raises `ReloadError`, too."""
        answer = self._ask("POST", "/api/v1/reload", _TIMEOUT_OF_CHANGE)
        if answer.status == http.client.UNPROCESSABLE_ENTITY:
            raise ReloadError(self.read(Faults, answer.body).faults)
        if answer.status != http.client.OK:
            raise self._refusal(answer)
        return self.read(Reloaded, answer.body).changed

    def get(self, path: str) -> Any:
        """Return what the bridge has at ``path``, as JSON has it."""
        answer = self._ask("GET", path, _TIMEOUT)
        if answer.status != http.client.OK:
            raise self._refusal(answer)
        return answer.body

    def read(self, shape: type[T], body: Any) -> T:
        """Take ``body`` as a ``shape``."""
        try:
            return TypeAdapter(shape).validate_python(body)
        except ValidationError as error:
            raise self._is_no_hvbridge() from error

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
                raise AdminError(f"{self.endpoint} gives no answer within {timeout:g} s") from error
            except (http.client.HTTPException, OSError) as error:
                raise self._is_no_hvbridge() from error

    def _unreachable(self, error: OSError) -> AdminError:
        cause = Cause.TIMED_OUT if isinstance(error, TimeoutError) else dial_cause(self.endpoint, error)
        if isinstance(error, socket.gaierror):
            cause = Cause.NAME_UNKNOWN
        if cause in (Cause.REFUSED, Cause.NOBODY_LISTENING):
            return AdminError(
                f"nothing listens on {self.endpoint}; is hvbridge running, and was [admin] in its config "
                "when it was started?"
            )
        if cause is Cause.NOT_PERMITTED and isinstance(self.endpoint, UnixEndpoint):
            return AdminError(
                f"this user may not open {self.endpoint}; run this as the user that hvbridge runs as, or as root"
            )
        return AdminError(f"cannot connect to {self.endpoint}: {cause} ({error_text(error)})")

    def _refusal(self, answer: Answer) -> AdminError:
        """What an answer that is no success means."""
        if answer.status == http.client.UNAUTHORIZED:
            said = "does not take this token" if self._has_token else "wants a token"
            return AdminError(
                f"{self.endpoint} {said}; give the one that its [admin] token_file holds, by --token-file FILE "
                f"or {TOKEN_VARIABLE}"
            )
        try:
            said = _SHAPE_OF_ERROR.validate_python(answer.body).error
        except ValidationError:
            return self._is_no_hvbridge()
        return AdminError(f"{self.endpoint} answers: {escaped(said)}")

    def _is_no_hvbridge(self) -> AdminError:
        return AdminError(
            f"what answers on {self.endpoint} is not the admin endpoint of an hvbridge of this version; "
            "compare with the listen of [admin] in its config"
        )


@exit_code(AdminError)
def with_admin(
    config: Path, admin: str | None, token_file: Path | None, work: Callable[[AdminClient], int]
) -> int:
    """Do ``work`` with the client that a command's options name; return its exit code, or that of what went wrong."""
    return work(admin_client(config, admin, token_file, os.environ))


def admin_client(
    config: Path, admin: str | None, token_file: Path | None, environ: Mapping[str, str]
) -> AdminClient:
    """Return a client for the endpoint ``admin``, or else for the one that the config has.

    The token is the one of ``token_file``, else of the environment, else of the config's own file.

    Raises:
        ConfigError: the config was needed, and is faulty.
        ValueError: no endpoint is named, or none that can be asked, or a token cannot be read.
    """
    endpoint: Endpoint
    if admin is None:
        settings = load_for_any_machine(config).admin
        if settings is None:
            raise ValueError(
                f"{config} has no [admin], so its bridge cannot be asked; add [admin] with listen = "
                '"tcp://127.0.0.1:9180" and start hvbridge again, or write --admin URL'
            )
        endpoint = settings.listen
        if isinstance(endpoint, TcpEndpoint):
            endpoint = TcpEndpoint(_TO_CONNECT.get(endpoint.host, endpoint.host), endpoint.port)
        own_token_file = settings.token_file
    else:
        endpoint, own_token_file = parse_endpoint(admin), None
    if not isinstance(endpoint, TcpEndpoint | UnixEndpoint):
        raise ValueError(f"{endpoint} is no admin endpoint; write tcp://HOST:PORT or unix:///PATH")
    if fault := _fault(endpoint):
        raise ValueError(f"{endpoint} cannot be asked: {fault}")
    if token_file is not None:
        return AdminClient(endpoint, read_token(token_file))
    if environ.get(TOKEN_VARIABLE):
        return AdminClient(endpoint, checked_token(environ[TOKEN_VARIABLE], TOKEN_VARIABLE))
    return AdminClient(endpoint, None if own_token_file is None else read_token(Path(own_token_file)))


def _fault(endpoint: TcpEndpoint | UnixEndpoint) -> str | None:
    if isinstance(endpoint, UnixEndpoint) and sys.platform == "win32":
        return "Python has no Unix sockets on Windows; let [admin] listen on tcp://127.0.0.1:9180"
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
        if sys.platform != "win32":  # where it has been refused
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)


def _json(body: bytes) -> Any:
    """Return what ``body`` holds; None, which is no answer of any use, when it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
