"""What a config holds: the settings, their defaults, and the reason for each default.

Owns: the shape of a config file, from which its JSON Schema and its reference page are made.
Refuses: files, positions, and rules that span several keys.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from hvbridge import ids
from hvbridge.endpoint import Endpoint, parse_endpoint
from hvbridge.units import OFF, UnitError, format_duration, format_size, parse_duration, parse_size
from hvbridge.wording import kind_of, shown

_SHORTEST_TIMEOUT = 0.001
_BOOT = 120.0  # seconds: a slow VM, from off to its service
_SHORTEST_KEEPALIVE = 1.0  # seconds: TCP_KEEPIDLE counts whole ones,
_LONGEST_KEEPALIVE = 9 * 3600.0  # and Linux takes no more than 32767 of them
_SMALLEST_BUFFER = 4 << 10
_LARGEST_BUFFER = 1 << 30  # systems double the value, in an int

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names stand in logs, metrics and ssh_config(5), where spaces and quotes make trouble."""


@dataclass(frozen=True)
class Notation:
    """How a value that TOML has no type for is written: read by ``parse``, printed by ``show``.

    ``parse`` raises ValueError with "what is wrong; what to write", for a value of any type.
    """

    name: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by ``parse``, and print by ``show`` in JSON."""
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(self.show, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the notation itself, not the Python value."""
        return dict(self.schema)


def _timeout(value: object) -> float:
    seconds = parse_duration(value, off=True)
    if seconds < _SHORTEST_TIMEOUT:
        raise UnitError(
            'a time-out of 0 would end everything at once; write "1ms" or more, or "off" for no limit'
        )
    return seconds


def _wait(value: object) -> float:
    return 0.0 if value == "off" else _timeout(value)


def _keepalive(value: object) -> float:
    seconds = parse_duration(value, off=True)
    if seconds != OFF and not _SHORTEST_KEEPALIVE <= seconds <= _LONGEST_KEEPALIVE:
        raise UnitError(
            f'{format_duration(seconds)} is out of range for TCP; write "1s" to "9h", or "off" for no probes'
        )
    return seconds


def _buffer(value: object) -> int | None:
    if value == "system":
        return None
    size = parse_size(value)
    if not _SMALLEST_BUFFER <= size <= _LARGEST_BUFFER:
        raise UnitError(
            f'{format_size(size)} is out of range for a socket buffer; write "4KiB" to "1GiB", or "system"'
        )
    return size


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):  # the loader has read it, with the machine's names of services
        return value
    if not isinstance(value, str):
        raise ValueError(
            f'{kind_of(value)} is not an endpoint; write one in quotes, as in "tcp://127.0.0.1:2222"'
        )
    return parse_endpoint(value)


def _directory(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f'{shown(value)} is not a directory; write its path in quotes, as in "emulator"')
    return value


def _partition(value: object) -> uuid.UUID:
    if not isinstance(value, str):
        raise ValueError(f'{kind_of(value)} is not a partition; write "host" or the GUID of a VM in quotes')
    return ids.parse_partition(value)


_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)? ?(ms|s|m|h)?|off)$"},
    ]
}

Timeout = Annotated[float, Notation("duration", _timeout, format_duration, _DURATION_SCHEMA)]
Wait = Annotated[
    float, Notation("duration", _wait, lambda seconds: format_duration(seconds or OFF), _DURATION_SCHEMA)
]
Keepalive = Annotated[float, Notation("duration", _keepalive, format_duration, _DURATION_SCHEMA)]
Buffer = Annotated[
    int | None,
    Notation(
        "size",
        _buffer,
        lambda size: "system" if size is None else format_size(size),
        {
            "anyOf": [
                {"type": "integer", "minimum": _SMALLEST_BUFFER, "maximum": _LARGEST_BUFFER},
                {"type": "string", "pattern": "^([0-9]+ ?(B|KiB|MiB|GiB)?|system)$"},
            ]
        },
    ),
]
EndpointText = Annotated[
    Endpoint,
    Notation(
        "endpoint",
        _endpoint,
        str,
        {
            "type": "string",
            "pattern": "^(([Tt][Cc][Pp]://)?[^/]+:[0-9]+|[Vv][Ss][Oo][Cc][Kk]://[^/]+:[0-9]+"
            "|[Hh][Yy][Pp][Ee][Rr][Vv]://[^/]+/[^/]+|[Uu][Nn][Ii][Xx]:///.+)$",
        },
    ),
]
Directory = Annotated[str, Notation("path", _directory, str, {"type": "string", "minLength": 1})]
Partition = Annotated[
    uuid.UUID,
    Notation(
        "host or GUID",
        _partition,
        ids.partition_text,
        {"type": "string", "pattern": r"^(host|\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?)$"},
    ),
]


class Table(BaseModel):
    """A table of the file: no other keys, no conversion of types, no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Settings(Table):
    """What may be set for one forward, or for all under [defaults]."""

    dial_timeout: Timeout = Field(
        default=10.0,
        description="How long reaching the connect endpoint may take. Hyper-V's own 2 seconds are short for "
        "a guest under load; beyond 10 a person takes the prompt for dead.",
    )
    wait: Wait = Field(
        default=0.0,
        description="How long a connection is held and dialled again while the VM boots or its service starts. Off, "
        "because a client that is told at once can do something else; with start it is 2 minutes, a slow boot.",
    )
    start: bool = Field(
        default=False,
        description="Start or resume the VM of the connect endpoint when a connection finds it off, and wait. False, "
        "because a VM costs memory, and starting one needs rights on the host.",
    )
    idle_save: Timeout = Field(
        default=OFF,
        description="Save the VM that hvbridge started, once its last connection has been gone that long. Off, because "
        "something else may use the VM meanwhile.",
    )
    idle_timeout: Timeout = Field(
        default=OFF,
        description="How long a connection may carry nothing either way before it is ended. Off, because an "
        "SSH session left alone for hours must live; a peer that died is found by "
        "tcp_keepalive.",
    )
    half_close_timeout: Timeout = Field(
        default=300.0,
        description="How long, once one side has ended its data, the other may send nothing before the "
        "connection is ended. 5 minutes let a slow answer come, and end what a peer forgot to close.",
    )
    max_lifetime: Timeout = Field(
        default=OFF,
        description="How long a connection may last at all. Off, because no age alone makes a session wrong.",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Connections at once; above it, new ones wait in the backlog. 1024 is more than people "
        "open, and keeps a runaway client from taking all memory.",
    )
    max_pending_dials: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="Dials at once; above it, accepted connections wait their turn, for up to dial_timeout. "
        "64 hide a slow guest, and a VM that is off is not stormed.",
    )
    backlog: int = Field(
        default=1024,
        ge=1,
        le=65535,
        description="Connections that the system holds until they are accepted. 1024, because a guest of "
        "Hyper-V drops what does not fit, and the caller only sees a time-out; the system may "
        "lower it.",
    )
    buffer: Buffer = Field(
        default=None,
        description="Size of a listener's send and receive buffers, taken over by what it accepts. The "
        "system's own choice, because large rings of Hyper-V sockets need memory in one piece, "
        "and fail without it.",
    )
    tcp_keepalive: Keepalive = Field(
        default=60.0,
        description="Silence on a TCP connection after which the peer is probed. 60 seconds find a dead "
        "peer in minutes, and keep firewalls from forgetting an idle session.",
    )
    expose: bool = Field(
        default=False,
        description="Allow a TCP listener on an address that is not loopback. False, so that no slip of the "
        "pen puts a VM's service on the network.",
    )
    connect_mode: Literal["auto", "nonblocking", "thread"] = Field(
        default="auto",
        description="How Hyper-V sockets connect on Windows: in the event loop (nonblocking) or in a worker "
        "thread. Auto tries the event loop, and takes threads where the system cannot wait for "
        "such a socket.",
    )
    connected_suspend: bool = Field(
        default=False,
        description="Ask Hyper-V to keep connections open while the VM is suspended (Windows). False, as "
        "Windows has it: the other end would wait for as long as the VM sleeps.",
    )


class Forward(Settings):
    """One listener, and the endpoint that each of its connections is spliced with."""

    @property
    def effective_wait(self) -> float:
        """Seconds for which a failed dial is tried again."""
        return self.wait or (_BOOT if self.start else 0.0)

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Names the forward in logs and messages: letters, digits, dots, hyphens and underscores.",
        examples=["ssh"],
    )
    listen: EndpointText = Field(
        description="Where connections come in. TCP port 0 lets the system pick one.",
        examples=["tcp://127.0.0.1:2222"],
    )
    connect: EndpointText = Field(
        description="Where each connection is carried to.",
        examples=["hyperv://parent/ssh"],
    )


class EmulatorSettings(Table):
    """Emulate Hyper-V: hyperv endpoints meet other processes on this machine in a directory."""

    dir: Directory = Field(
        description="The directory where the partitions meet, taken from the directory of the config file. "
        "No default: the emulator is never chosen silently.",
        examples=["emulator"],
    )
    partition: Partition = Field(
        default=ids.HOST,
        description="Which partition this process is in. The host, because that is where most bridges start.",
    )
    enforce_registration: bool = Field(
        default=False,
        description="Deny services that are not registered, as a Hyper-V host does. False, so that a first "
        "try needs no registration.",
    )


class Config(Table):
    """A config of hvbridge."""

    model_config = ConfigDict(title="hvbridge config")

    defaults: Settings = Field(
        default=Settings(), description="Settings for every forward that does not say otherwise."
    )
    emulator: EmulatorSettings | None = Field(
        default=None, description="Emulate Hyper-V, to try a config where there is none."
    )
    forwards: tuple[Forward, ...] = Field(
        alias="forward",
        strict=False,  # TOML has lists only
        min_length=1,
        description="The forwards: each listens, and splices what it accepts with another endpoint.",
    )


def bounds(field: FieldInfo) -> tuple[int, int]:
    """Return the lowest and the highest value of a field that holds a whole number."""
    limits = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "le") if hasattr(item, name)
    }
    return limits["ge"], limits["le"]
