"""The composition root: from a checked config to running forwards.

Owns: which setting goes where. The config stops here; below it, each part is given what it needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hvbridge import bridge
from hvbridge.config import Config, EmulatorSettings
from hvbridge.config import Forward as ForwardConfig
from hvbridge.forward import Forward, Record
from hvbridge.splice import Limits, open_splicer
from hvbridge.transport.network import Network, emulated_network, network_from_environment
from hvbridge.transport.options import DialOptions, ListenOptions


@dataclass(frozen=True, slots=True)
class Bound:
    """A forward that listens, in words for a person."""

    name: str
    listen: Sequence[str]
    """Every address that was bound, with the port that the system picked where it was asked to."""
    connect: str


Ready = Callable[[Sequence[Bound]], None]
"""Called once, when every listener is bound."""


def network_of(settings: EmulatorSettings | None, environ: Mapping[str, str]) -> Network:
    """Return the network that a config asks for, else the environment's, else the machine as it is."""
    if settings is None:
        return network_from_environment(environ)
    return emulated_network(
        Path(settings.dir), settings.partition, enforce_registration=settings.enforce_registration
    )


async def run(
    config: Config,
    network: Network,
    shutdown: bridge.Shutdown,
    *,
    ready: Ready,
    account: Callable[[Record], None],
) -> None:
    """Run every forward of ``config`` until ``shutdown``. Raises `bridge.BindError` before ``ready``."""
    listeners = await bridge.bind_all(
        network, ((forward.name, forward.listen, _listen_options(forward)) for forward in config.forwards)
    )
    async with open_splicer() as splicer:
        forwards = [
            Forward(
                settings.name,
                settings.connect,
                dial=partial(network.dial, settings.connect, _dial_options(settings)),
                splicer=splicer,
                limits=Limits(settings.idle_timeout, settings.half_close_timeout, settings.max_lifetime),
                dial_timeout=settings.dial_timeout,
                max_connections=settings.max_connections,
                max_pending_dials=settings.max_pending_dials,
                account=account,
            )
            for settings in config.forwards
        ]
        ready(
            [
                Bound(forward.name, [listener.where for listener in bound], str(forward.upstream))
                for forward, bound in zip(forwards, listeners, strict=True)
            ]
        )
        await bridge.serve(list(zip(forwards, listeners, strict=True)), shutdown)


def _listen_options(settings: ForwardConfig) -> ListenOptions:
    return ListenOptions(
        backlog=settings.backlog,
        buffer=settings.buffer,
        tcp_keepalive=settings.tcp_keepalive,
        connected_suspend=settings.connected_suspend,
    )


def _dial_options(settings: ForwardConfig) -> DialOptions:
    return DialOptions(
        timeout=settings.dial_timeout,
        tcp_keepalive=settings.tcp_keepalive,
        connect_mode=settings.connect_mode,
        connected_suspend=settings.connected_suspend,
    )
