"""Loads a config file, or reports all its faults at once.

Expands environment variables, applies defaults, and checks the rules that span several keys. The caller supplies what
the machine supports, and the names of its services.
"""

import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tomli
from pydantic import ValidationError

from hvbridge.address import placement
from hvbridge.address.client_id import parse_source
from hvbridge.address.endpoint import (
    Endpoint,
    EndpointError,
    SystemdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    parse_endpoint,
)
from hvbridge.config.errors import ConfigError, Fault, Path, is_unknown_key, of_shape, of_syntax
from hvbridge.config.models import Config, EmulatorSettings, Settings
from hvbridge.hyperv.services import RegistrationError, Service, ServiceNames
from hvbridge.text import Problem, nearest, printable, quote

Role = Literal["listen", "connect"]


@dataclass(frozen=True)
class Machine:
    """What the loader must know about the machine that a config is for."""

    services: ServiceNames | None = None
    """Its registered services; None if it has no service names."""
    fault: Callable[[Endpoint, Role], Problem | None] = lambda _endpoint, _role: None
    """Returns why it cannot use an endpoint in a role; by default, it can use all."""


_VARIABLE = re.compile(r"\$(\$?)\{([^{}]*)(\}?)")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def load_config(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str],
    machine_of: Callable[[EmulatorSettings | None], Machine],
) -> Config:
    """Read a config file.

    Args:
        path: the file; messages name it as given here.
        environ: the variables for ``${NAME}`` in strings.
        machine_of: returns the machine that the config is for, given the [emulator] table.

    Raises:
        ConfigError: with every fault of the file.
    """
    file = os.fspath(path)
    text = _read(file)
    document = _parse(file, text)
    found = _Findings()
    document = _expanded((), document, environ, found)
    _resolve_paths(document, file)
    inherited = _inherit_defaults(document)
    machine = _machine(document, machine_of)
    _read_endpoints(document, machine.services, found)
    config = _validated(document, inherited, found)
    _check_names(document, found)
    _check_endpoints(document, inherited, machine.fault, found)
    _check_admin(document, found)
    if config is None or found.faults:
        raise ConfigError(found.located(file, text, document))
    return config


def _read(file: str) -> str:
    try:
        data = pathlib.Path(file).read_bytes()
    except FileNotFoundError:
        message = "no such file; write the path of a config"
    except OSError as error:
        if pathlib.Path(file).is_dir():
            message = "this is a directory; write the path of a config in it"
        else:
            message = (
                f"the file cannot be read ({error.strerror}); let this user read it, or write another path"
            )
    else:
        return _decode(file, data)
    raise ConfigError([Fault(file, 0, 0, "", message)]) from None


def _decode(file: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # editors on Windows may add a byte order mark
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()  # without the byte order mark
    if data.startswith(_UTF16_MARKS):
        message = "the file is in UTF-16, as Windows PowerShell writes it; save it as UTF-8"
    else:
        message = "this byte is not UTF-8; save the file as UTF-8"
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    raise ConfigError([Fault(file, line, column, "", message)])


def _parse(file: str, text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line, column, message = of_syntax(error)
        fault = Fault(file, line, column, "", message)
    except RecursionError:
        fault = Fault(
            file, 1, 1, "", "lists or tables are nested too deeply; write what the config reference shows"
        )
    except ValueError:  # from int()
        fault = Fault(file, 1, 1, "", "a number has thousands of digits; write a shorter one")
    raise ConfigError([fault])


class _Findings:
    """Collects faults in any order, by the paths of their values."""

    def __init__(self) -> None:
        self.faults: list[tuple[Path, str]] = []
        self._key_faults: set[Path] = set()

    def add(self, path: Path, message: str | Problem, *, about_key: bool = False) -> None:
        self.faults.append((path, str(message)))
        if about_key:
            self._key_faults.add(path)

    def add_all(self, path: Path, messages: Iterable[str | Problem | None]) -> None:
        for message in messages:
            if message is not None:
                self.add(path, message)

    def spoils(self, path: Path) -> bool:
        """Whether a value already has a fault, so that further faults would only be consequences."""
        return any(path == faulty for faulty, _ in self.faults)

    def located(self, file: str, text: str, document: dict[str, Any]) -> list[Fault]:
        """Return the faults with their positions, in the order of the file."""
        from hvbridge.config.positions import Positions  # loads a parser, which a valid config does not need

        positions = Positions(text)
        faults = []
        for path, message in self.faults:
            line, column = (positions.of_key if path in self._key_faults else positions.of_value)(path)
            faults.append(Fault(file, line, column, _where(path, document), message))
        return sorted(faults, key=lambda fault: (fault.line, fault.column))


def _where(path: Path, document: dict[str, Any]) -> str:
    match path:
        case ("forward", int() as index, *rest):
            return ": ".join([_label(index, document), *map(str, rest)])
        case _:
            return ": ".join(map(str, path))


def _label(index: int, document: dict[str, Any]) -> str:
    forward = document["forward"][index]
    name = forward.get("name") if isinstance(forward, dict) else None
    return f"forward {quote(name)}" if name and isinstance(name, str) else f"forward #{index + 1}"


def _forwards(document: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the forwards that are tables, with their indices."""
    forwards = document.get("forward")
    if isinstance(forwards, list):
        yield from ((index, table) for index, table in enumerate(forwards) if isinstance(table, dict))


def _expanded(path: Path, value: Any, environ: Mapping[str, str], found: _Findings) -> Any:
    """Return ``value`` with ``${NAME}`` replaced by environment variables, in strings at any depth."""
    if isinstance(value, dict):
        return {key: _expanded((*path, key), item, environ, found) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded((*path, index), item, environ, found) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        escaped, name, closed = match.groups()
        if escaped:
            return match[0][1:]
        if not name or not closed:
            found.add(path, "${ does not start a variable here; write ${NAME}, or $${ for a literal ${")
        elif name not in environ:
            near = nearest(name, environ)
            advice = f"did you mean ${{{near}}}?" if near else "set it, or write $${ for a literal ${"
            found.add(path, f"the environment variable {printable(name)} is not set; {advice}")
        return environ.get(name, "")

    return _VARIABLE.sub(variable, value)


def _resolve_paths(document: dict[str, Any], file: str) -> None:
    """Resolve relative paths against the config's directory, not the current one."""
    for name, key in (("emulator", "dir"), ("admin", "token_file")):
        table = document.get(name)
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
            table[key] = str(pathlib.Path(file).parent.absolute() / table[key])


def _inherit_defaults(document: dict[str, Any]) -> set[Path]:
    """Fill in each forward's missing settings from [defaults]; return their paths."""
    defaults = document.get("defaults")
    if not isinstance(defaults, dict):
        return set()
    inherited: set[Path] = set()
    for index, table in _forwards(document):
        for key in Settings.model_fields.keys() & defaults.keys() - table.keys():
            table[key] = defaults[key]
            inherited.add(("forward", index, key))
    return inherited


def _machine(document: dict[str, Any], machine_of: Callable[[EmulatorSettings | None], Machine]) -> Machine:
    table = document.get("emulator")
    try:
        return machine_of(None if table is None else EmulatorSettings.model_validate(table))
    except ValidationError:  # reported elsewhere; until it is fixed, the machine is unknown
        return Machine(_UnknownServices())


class _UnknownServices:
    """The service names of a machine that is unknown, because [emulator] has faults."""

    def services(self) -> list[Service]:
        raise RegistrationError("[emulator] has faults")


def _read_endpoints(document: dict[str, Any], services: ServiceNames | None, found: _Findings) -> None:
    """Replace strings by the endpoints that they describe, where they are valid."""
    for index, table in _forwards(document):
        for key in ("listen", "connect"):
            path, text = ("forward", index, key), table.get(key)
            if isinstance(text, str) and not found.spoils(path):
                try:
                    table[key] = parse_endpoint(text, services)
                except EndpointError as error:
                    found.add(path, str(error))


def _validated(document: dict[str, Any], inherited: set[Path], found: _Findings) -> Config | None:
    try:
        return Config.model_validate(document)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = error["loc"]
            if error["type"] == "too_short" and error["input"]:
                continue  # pydantic counts only the valid forwards
            if path not in inherited and not found.spoils(path):  # else it is reported under [defaults]
                found.add(path, of_shape(error), about_key=is_unknown_key(error))
    return None


def _check_names(document: dict[str, Any], found: _Findings) -> None:
    first: dict[str, int] = {}
    for index, table in _forwards(document):
        path, name = ("forward", index, "name"), table.get("name")
        if isinstance(name, str) and not found.spoils(path) and first.setdefault(name, index) != index:
            found.add(path, f"forward #{first[name] + 1} already has this name; write another")


def _check_allow(index: int, table: dict[str, Any], listen: Endpoint, found: _Findings) -> None:
    allow = table.get("allow")
    if not isinstance(allow, list):
        return
    for place, item in enumerate(allow):
        path = ("forward", index, "allow", place)
        if found.spoils(path):
            continue
        try:
            source = parse_source(item) if isinstance(item, str) else item
        except ValueError:  # already reported
            continue
        if fault := placement.source_fault(listen, source):
            found.add(path, fault)


def _check_accept_proxy(index: int, table: dict[str, Any], listen: Endpoint, found: _Findings) -> None:
    proxies = table.get("accept_proxy")
    if not isinstance(proxies, list) or not proxies:
        return
    path = ("forward", index, "accept_proxy")
    if not isinstance(listen, TcpEndpoint | SystemdEndpoint):
        found.add(
            path, "proxies are known by their network, which only a TCP listener sees; remove accept_proxy"
        )
    elif placement.exposure_fault(listen) and table.get("expose", False) is False:
        for place, item in enumerate(proxies):
            if isinstance(item, str) and item.endswith("/0"):
                found.add(
                    (*path, place),
                    f"any client could claim to be any other by {quote(item)}; write the addresses of your proxies, "
                    "or add expose = true",
                )


def _check_admin(document: dict[str, Any], found: _Findings) -> None:
    admin = document.get("admin")
    if not isinstance(admin, dict):
        return
    path = ("admin", "listen")
    listen = admin.get("listen")
    if not isinstance(listen, str) or found.spoils(path):
        return
    try:
        endpoint = parse_endpoint(listen)
    except EndpointError:
        return
    if not isinstance(endpoint, TcpEndpoint | UnixEndpoint):
        found.add(
            path, "the admin endpoint listens only on TCP or a Unix-domain socket; write tcp:// or unix://"
        )
    elif admin.get("token_file") is None and placement.exposure_fault(endpoint):
        found.add(
            path,
            f"other machines could reach {endpoint}; write tcp://127.0.0.1:PORT to allow only this machine, "
            "or add a token_file",
        )


def _check_endpoints(
    document: dict[str, Any],
    inherited: set[Path],
    judge: Callable[[Endpoint, Role], Problem | None],
    found: _Findings,
) -> None:
    listeners: list[tuple[int, Endpoint]] = []
    for index, table in _forwards(document):
        if table.get("idle_save", "off") != "off" and table.get("start", False) is False:
            message = "idle_save saves only a VM that hvbridge started; add start = true, or remove idle_save"
            found.add(("forward", index, "idle_save"), message)
        listen, connect = table.get("listen"), table.get("connect")
        if isinstance(listen, Endpoint):
            found.add_all(
                ("forward", index, "listen"), _listen_faults(document, table, listen, listeners, judge)
            )
            listeners.append((index, listen))
            _check_allow(index, table, listen, found)
            if ("forward", index, "accept_proxy") not in inherited:
                _check_accept_proxy(index, table, listen, found)
        if isinstance(connect, Endpoint):
            if table.get("start") is True:
                found.add_all(("forward", index, "start"), [placement.start_fault(connect)])
            fault: str | Problem | None = placement.connect_fault(connect) or judge(connect, "connect")
            if fault is None and isinstance(listen, Endpoint):
                fault = placement.loop_fault(listen, connect)
            found.add_all(("forward", index, "connect"), [fault])


def _listen_faults(
    document: dict[str, Any],
    table: dict[str, Any],
    listen: Endpoint,
    others: Sequence[tuple[int, Endpoint]],
    judge: Callable[[Endpoint, Role], Problem | None],
) -> Iterator[str | Problem | None]:
    """What is wrong with listening there, beside the listeners before it."""
    yield judge(listen, "listen")
    if table.get("expose", False) is False and not table.get("allow"):
        yield placement.exposure_fault(listen)
    for other, taken in others:
        if placement.collide(listen, taken):
            yield f"{_label(other, document)} already listens on {taken}; write another address"
            break
