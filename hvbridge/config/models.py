"""The settings of a config, their defaults, and the reason for each default.

The JSON Schema and the reference page are generated from these models. Rules that span several keys are in `loader`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from hvbridge.config.notation import (
    BandwidthText,
    Buffer,
    Directory,
    EndpointText,
    Keepalive,
    NetworkText,
    Partition,
    RateText,
    SourceText,
    Timeout,
    Wait,
)
from hvbridge.hyperv import guid
from hvbridge.units import (
    OFF,
)

_BOOT = 120.0  # seconds: a slow VM, from power-on to a running service

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names appear in logs, metrics and ssh_config(5), where spaces and quotes cause trouble."""


class Table(BaseModel):
    """A table of the file: no extra keys, no type conversion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Health(Table):
    """How to check an upstream without a client."""

    interval: Timeout = Field(
        default=30.0,
        description="Time between two checks. 30 seconds is soon enough for a person, and costs next to nothing.",
    )
    timeout: Timeout = Field(
        default=5.0,
        description="How long the dial and the expected bytes may each take. 5 seconds, because a service that "
        "takes longer is not healthy.",
    )
    expect: str = Field(
        default="",
        max_length=1024,
        description="What the service must send first; sshd, for example, sends SSH-. Empty, because most services "
        "wait for the client; then a successful dial is enough.",
        examples=["SSH-"],
    )


class Settings(Table):
    """Settings of one forward, or of all forwards under [defaults]."""

    dial_timeout: Timeout = Field(
        default=10.0,
        description="How long reaching the connect endpoint may take. Hyper-V's own 2 seconds are too short for a "
        "guest under load; beyond 10 seconds, users think that the client hangs.",
    )
    wait: Wait = Field(
        default=0.0,
        description="How long a connection is held and dialled again while the VM boots or its service starts. Off, "
        "because a client that fails at once can do something else; with start, 2 minutes, enough for "
        "a slow boot.",
    )
    start: bool = Field(
        default=False,
        description="Start or resume the VM of the connect endpoint if a connection finds it off, and wait for it. "
        "False, because a VM takes memory, and starting one requires rights on the host.",
    )
    idle_save: Timeout = Field(
        default=OFF,
        description="Save a VM that hvbridge started, once its last connection has been closed for this long. Off, "
        "because something else may be using the VM.",
    )
    idle_timeout: Timeout = Field(
        default=OFF,
        description="How long a connection may carry no data in either direction before it is closed. Off, because "
        "an SSH session may sit idle for hours; tcp_keepalive detects a dead peer.",
    )
    half_close_timeout: Timeout = Field(
        default=300.0,
        description="How long one side may send nothing, after the other has ended its data, before the connection "
        "is closed. 5 minutes allows for a slow answer, and cleans up after a peer that forgot to "
        "close.",
    )
    max_lifetime: Timeout = Field(
        default=OFF,
        description="How long a connection may last. Off, because age alone is no reason to end a session.",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Most connections at once; more wait in the backlog. 1024 is more than people open, and stops a "
        "runaway client from taking all memory.",
    )
    max_pending_dials: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="Most dials at once; further accepted connections wait their turn, for up to dial_timeout. 64 "
        "is enough to hide a slow guest, and spares a VM that is off a storm of dials.",
    )
    when_full: Literal["queue", "refuse"] = Field(
        default="queue",
        description="What happens to connections above max_connections or rate: they wait in the backlog (queue), "
        "or are reset at once (refuse). Queue, because most peaks are short.",
    )
    rate: RateText = Field(
        default=OFF,
        description="New connections per unit of time; when_full says what happens above it. Off, because no limit "
        "suits everyone.",
    )
    bandwidth: BandwidthText = Field(
        default=OFF,
        description="Bytes per second for each connection, in each direction. Off, because most links have limits "
        "of their own.",
    )
    allow: tuple[SourceText, ...] = Field(
        default=(),
        strict=False,
        description="Who may connect: networks for a TCP listener, VM GUIDs or host for a Hyper-V listener, CIDs "
        "for a vsock listener. Empty: everyone who can reach the listener.",
        examples=[["192.0.2.0/24"]],
    )
    accept_proxy: tuple[NetworkText, ...] = Field(
        default=(),
        strict=False,
        description="Networks of trusted proxies, whose connections must begin with a PROXY protocol header that "
        "names the client. Empty: no header is accepted.",
        examples=[["127.0.0.1"]],
    )
    proxy_protocol: Literal["off", "v1", "v2"] = Field(
        default="off",
        description="Send the client's address to the upstream in a PROXY protocol header before the data. Off, "
        "because only a service that expects the header understands it.",
    )
    health: Health | None = Field(
        default=None,
        description='Check the upstream without a client, as in health = { expect = "SSH-" }. None, because each '
        "check is a connection that the service sees.",
    )
    backlog: int = Field(
        default=1024,
        ge=1,
        le=65535,
        description="Connections that the system holds until they are accepted. 1024, because a Hyper-V guest drops "
        "connections beyond it and the caller only sees a timeout; the system may lower it.",
    )
    buffer: Buffer = Field(
        default=None,
        description="Size of a listener's send and receive buffers, inherited by accepted connections. The system's "
        "choice, because large rings of Hyper-V sockets need contiguous memory, and fail without it.",
    )
    tcp_keepalive: Keepalive = Field(
        default=60.0,
        description="How long a TCP connection may be silent before the peer is probed. 60 seconds detects a dead "
        "peer within minutes, and keeps firewalls from dropping idle sessions.",
    )
    expose: bool = Field(
        default=False,
        description="Allow a TCP listener on an address that is not loopback. False, so that a VM's service does "
        "not reach the network by mistake.",
    )
    connect_mode: Literal["auto", "nonblocking", "thread"] = Field(
        default="auto",
        description="How Hyper-V sockets connect on Windows: in the event loop (nonblocking) or in a worker thread. "
        "Auto tries the event loop, and uses threads if the system cannot wait for such a socket.",
    )
    connected_suspend: bool = Field(
        default=False,
        description="Ask Hyper-V to keep connections open while the VM is suspended (Windows). False, as in Windows "
        "itself: the peer would wait for as long as the VM is suspended.",
    )


class Forward(Settings):
    """One listener, and the endpoint to which its connections are forwarded."""

    @property
    def effective_wait(self) -> float:
        """Seconds for which a failed dial is retried."""
        return self.wait or (_BOOT if self.start else 0.0)

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Identifies the forward in logs and messages: letters, digits, dots, hyphens and underscores.",
        examples=["ssh"],
    )
    listen: EndpointText = Field(
        description="Where to accept connections. With TCP port 0, the system picks a port.",
        examples=["tcp://127.0.0.1:2222"],
    )
    connect: EndpointText = Field(
        description="Where to forward each connection.",
        examples=["hyperv://parent/ssh"],
    )


class EmulatorSettings(Table):
    """Emulate Hyper-V: hyperv endpoints lead to other processes on this machine, which meet in a directory."""

    dir: Directory = Field(
        description="The directory where the partitions meet, relative to the config file. No default: the emulator "
        "is never chosen silently.",
        examples=["emulator"],
    )
    partition: Partition = Field(
        default=guid.HOST,
        description="The partition that this process is in. The host, because most bridges start there.",
    )
    enforce_registration: bool = Field(
        default=False,
        description="Deny services that are not registered, as a Hyper-V host does. False, so that a first try "
        "needs no registration.",
    )


class LimitSettings(Table):
    """Limits for all forwards together."""

    max_connections: int = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000,
        description="Most connections at once, in all forwards together. Limited only by descriptors, because each "
        "forward has its own limit.",
    )


class AdminSettings(Table):
    """The admin endpoint: health, metrics, a web page, and an API."""

    listen: EndpointText = Field(
        description="Where to listen: a TCP address, or a Unix socket, which only this user and root may open.",
        examples=["tcp://127.0.0.1:9180"],
    )
    token_file: Directory | None = Field(
        default=None,
        description="The file whose first line is the token that requests must carry, relative to the config file. "
        "None: everyone who can reach the endpoint may read, and only a Unix socket allows changes.",
        examples=["admin.token"],
    )


class Config(Table):
    """A config of hvbridge."""

    model_config = ConfigDict(title="hvbridge config")

    defaults: Settings = Field(
        default=Settings(), description="Settings for every forward that does not override them."
    )
    emulator: EmulatorSettings | None = Field(
        default=None, description="Emulate Hyper-V, to try a config on a machine without it."
    )
    admin: AdminSettings | None = Field(default=None, description="The admin endpoint. None: there is none.")
    limits: LimitSettings = Field(default=LimitSettings(), description="Limits across all forwards.")
    forwards: tuple[Forward, ...] = Field(
        alias="forward",
        strict=False,  # TOML has lists only
        min_length=1,
        description="The forwards: each listens, and splices every connection with another endpoint.",
    )


def bounds(field: FieldInfo) -> tuple[int, int]:
    """Return the lowest and the highest value of an integer field."""
    limits = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "le") if hasattr(item, name)
    }
    return limits["ge"], limits["le"]
