"""Notations for config values without a TOML type: durations, sizes, endpoints, sources."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from hvbridge.address.client_id import Network, Source, parse_source, source_text
from hvbridge.address.endpoint import Endpoint, parse_endpoint
from hvbridge.hyperv import guid
from hvbridge.text import kind_of, shown
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

_SHORTEST_TIMEOUT = 0.001
_SHORTEST_KEEPALIVE = 1.0  # seconds: TCP_KEEPIDLE counts whole ones,
_LONGEST_KEEPALIVE = 9 * 3600.0  # and Linux takes no more than 32767 of them
_SMALLEST_BUFFER = 4 << 10
_LARGEST_BUFFER = 1 << 30  # systems double the value, in an int


@dataclass(frozen=True, eq=False)
class Notation:
    """The notation of a value without a TOML type: ``parse`` reads it, ``show`` prints it.

    ``parse`` accepts a value of any type, and raises ValueError with "what is wrong; what to write".
    """

    name: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with ``parse``, and serialize to JSON with ``show``."""
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(self.show, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the notation, not the Python value."""
        return dict(self.schema)


def _timeout(value: object) -> float:
    seconds = parse_duration(value, off=True)
    if seconds < _SHORTEST_TIMEOUT:
        raise UnitError(
            'a timeout of 0 would end everything at once; write "1ms" or more, or "off" for no limit'
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
    if isinstance(value, Endpoint):  # already parsed by the loader, with the machine's service names
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
        raise ValueError(f'{shown(value)} is not a source; write a string such as "192.0.2.0/24"')
    return parse_source(value)


def _network(value: object) -> Network:
    source = _source(value)
    if not isinstance(source, Network):
        raise ValueError(f'{shown(value)} is not a network; write one such as "127.0.0.1" or "192.0.2.0/24"')
    return source


def _directory(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f'{shown(value)} is not a path; write one in quotes, as in "emulator"')
    return value


def _partition(value: object) -> uuid.UUID:
    if not isinstance(value, str):
        raise ValueError(f'{kind_of(value)} is not a partition; write "host" or the GUID of a VM in quotes')
    return guid.parse_partition(value)


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
        guid.partition_text,
        {"type": "string", "pattern": r"^(host|\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?)$"},
    ),
]
