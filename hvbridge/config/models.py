"""What a config holds: the settings, their defaults, and the reason for each default.

Owns: the shape of a config file, from which its JSON Schema and its reference page are made.
Refuses: files, positions, and rules that span several keys.
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

_BOOT = 120.0  # seconds: a slow VM, from off to its service

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names stand in logs, metrics and ssh_config(5), where spaces and quotes make trouble."""


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
        default=guid.HOST,
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
