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
from hvbridge.sources import Network, Source, parse_source, source_text
from hvbridge.units import (
    OFF,
    UnitError,
    format_bandwidth,
    format_duration,
    format_rate,
    format_size,
    parse_bandwidth,
    parse_duration,
    parse_rate,
    parse_size,
)
from hvbridge.wording import kind_of, shown

_SHORTEST_TIMEOUT = 0.001
_BOOT = 120.0  # seconds: a slow VM, from off to its service
_SHORTEST_KEEPALIVE = 1.0  # seconds: TCP_KEEPIDLE counts whole ones,
_LONGEST_KEEPALIVE = 9 * 3600.0  # and Linux takes no more than 32767 of them
_SMALLEST_BUFFER = 4 << 10
_LARGEST_BUFFER = 1 << 30  # systems double the value, in an int

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names stand in logs, metrics and ssh_config(5), where spaces and quotes make trouble."""


@dataclass(frozen=True, eq=False)
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


def _source(value: object) -> Source:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value  # a CID
    if not isinstance(value, str):
        raise ValueError(f'{shown(value)} is no source of connections; write a text such as "192.0.2.0/24"')
    return parse_source(value)


def _network(value: object) -> Network:
    source = _source(value)
    if not isinstance(source, Network):
        raise ValueError(f'{shown(value)} is no network; write one such as "127.0.0.1" or "192.0.2.0/24"')
    return source


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
            "|[Hh][Yy][Pp][Ee][Rr][Vv]://[^/]+/[^/]+|[Uu][Nn][Ii][Xx]:///.+"
            "|[Ss][Yy][Ss][Tt][Ee][Mm][Dd]://[ -9;-~]{1,255})$",
        },
    ),
]
SourceText = Annotated[
    Source,
    Notation(
        "source",
        _source,
        source_text,
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}]},
    ),
]
NetworkText = Annotated[
    Network, Notation("network", _network, str, {"type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]+)?$"})
]
RateText = Annotated[
    float,
    Notation("rate", parse_rate, format_rate, {"type": "string", "pattern": "^([0-9]+ ?/ ?(s|m|h)|off)$"}),
]
BandwidthText = Annotated[
    float,
    Notation(
        "bandwidth",
        parse_bandwidth,
        format_bandwidth,
        {"type": "string", "pattern": "^([0-9]+ ?(B|KiB|MiB|GiB)?/s|off)$"},
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


class Health(Table):
    """How an upstream is checked without a client."""

    interval: Timeout = Field(
        default=30.0,
        description="Time between two checks. 30 seconds are soon enough for a person, and no load.",
    )
    timeout: Timeout = Field(
        default=5.0,
        description="How long the dial, and the bytes that are expected, may take each. 5 seconds: what takes longer "
        "is not well.",
    )
    expect: str = Field(
        default="",
        max_length=1024,
        description="What the service says first of itself, as sshd says SSH-. Empty, because most services wait for "
        "the client; then a dial that succeeds is enough.",
        examples=["SSH-"],
    )


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
    when_full: Literal["queue", "refuse"] = Field(
        default="queue",
        description="What happens to connections above max_connections or rate: they wait in the backlog, or are "
        "reset at once. Queue, because most peaks are short.",
    )
    rate: RateText = Field(
        default=OFF,
        description="New connections in a time; above it, when_full says what happens to them. Off, because a limit "
        "that suits nobody's clients harms them.",
    )
    bandwidth: BandwidthText = Field(
        default=OFF,
        description="Bytes a second of each connection, each way. Off, because most links have limits of their own.",
    )
    allow: tuple[SourceText, ...] = Field(
        default=(),
        strict=False,
        description="Who may connect: networks for a TCP listener, GUIDs of VMs or host for a Hyper-V listener, CIDs "
        "for a vsock listener. Empty: everyone who can reach the listener.",
        examples=[["192.0.2.0/24"]],
    )
    accept_proxy: tuple[NetworkText, ...] = Field(
        default=(),
        strict=False,
        description="Networks of fronting proxies, whose connections begin with a PROXY protocol header; it tells who "
        "the client is. Empty: nobody is believed.",
        examples=[["127.0.0.1"]],
    )
    proxy_protocol: Literal["off", "v1", "v2"] = Field(
        default="off",
        description="Tell the upstream who the client is, by a PROXY protocol header before the data. Off, because "
        "only a service that expects the header understands it.",
    )
    health: Health | None = Field(
        default=None,
        description='Check the upstream without a client, as in health = { expect = "SSH-" }. None, because a check '
        "is a connection that the service sees.",
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


class LimitSettings(Table):
    """Limits of all forwards together."""

    max_connections: int = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000,
        description="Connections at once, in all forwards. No limit but that of descriptors, because each forward has "
        "its own.",
    )


class AdminSettings(Table):
    """The admin endpoint: health, metrics, a page to look at, and an API."""

    listen: EndpointText = Field(
        description="Where it listens: a TCP address, or a Unix socket, which only this user may open.",
        examples=["tcp://127.0.0.1:9180"],
    )
    token_file: Directory | None = Field(
        default=None,
        description="The file whose first line is the token that requests must carry, taken from the directory of the "
        "config file. None: who reaches the endpoint may look, and only over a Unix socket change things.",
        examples=["admin.token"],
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
    admin: AdminSettings | None = Field(default=None, description="The admin endpoint. None: there is none.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What all forwards share.")
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
