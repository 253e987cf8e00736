"""The composition root: from a checked config to running forwards.

Owns: which setting goes where. The config stops here; below it, each part is given what it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

import trio

from hvbridge import bridge
from hvbridge.config import Config, EmulatorSettings
from hvbridge.config import Forward as ForwardConfig
from hvbridge.dialer import Dialer
from hvbridge.endpoint import Endpoint, HypervEndpoint, NamedHypervEndpoint
from hvbridge.forward import NOTHING, Forward, Record
from hvbridge.ids import vm_text
from hvbridge.power import VmPower
from hvbridge.splice import Limits, Splicer, open_splicer
from hvbridge.transport.errors import DialError
from hvbridge.transport.network import Network, emulated_network, network_from_environment
from hvbridge.transport.options import DialOptions, ListenOptions


@dataclass(frozen=True, slots=True)
class Bound:
    """A forward that listens, in words for a person."""

    name: str
    listen: Sequence[str]
    """Every address that was bound, with the port that the system picked where it was asked to."""
    connect: str


class Reporter(Protocol):
    """Hears what happens, to log it or to show it. No method may raise."""

    def ready(self, forwards: Sequence[Bound]) -> None:
        """Every listener is bound."""

    def closed(self, record: Record) -> None:
        """A connection has closed."""

    def upstream_changed(self, forward: str, error: DialError | None) -> None:
        """An upstream can no longer be reached, or, without an error, can be reached again."""

    def exhausted(self, forward: str, error: OSError) -> None:
        """Accepting pauses, for want of descriptors or memory."""

    def vm_changed(self, vm: str, what: str) -> None:
        """A VM has been started or saved."""


def network_of(settings: EmulatorSettings | None, environ: Mapping[str, str]) -> Network:
    """Return the network that a config asks for, else the environment's, else the machine as it is."""
    if settings is None:
        return network_from_environment(environ)
    return emulated_network(
        Path(settings.dir), settings.partition, enforce_registration=settings.enforce_registration
    )


async def run(config: Config, network: Network, shutdown: bridge.Shutdown, reporter: Reporter) -> None:
    """Run every forward of ``config`` until ``shutdown``. Raises `bridge.BindError` before it is ready."""
    listeners = await bridge.bind_all(
        network, ((forward.name, forward.listen, _listen_options(forward)) for forward in config.forwards)
    )
    power = _power(config, network, reporter)
    async with open_splicer() as splicer, trio.open_nursery() as nursery:
        for vm in power.values():
            nursery.start_soon(vm.save_when_idle)
        forwards = [_forward(settings, network, splicer, power, reporter) for settings in config.forwards]
        reporter.ready(
            [
                Bound(settings.name, [listener.where for listener in bound], str(settings.connect))
                for settings, bound in zip(config.forwards, listeners, strict=True)
            ]
        )
        await bridge.serve(list(zip(forwards, listeners, strict=True)), shutdown)
        nursery.cancel_scope.cancel()


def _forward(
    settings: ForwardConfig,
    network: Network,
    splicer: Splicer,
    power: Mapping[UUID | str, VmPower],
    reporter: Reporter,
) -> Forward:
    starter = power.get(_vm_of(settings.connect) or "") if settings.start else None
    dialer = Dialer(
        settings.connect,
        partial(network.dial, settings.connect, _dial_options(settings)),
        dial_timeout=settings.dial_timeout,
        max_pending=settings.max_pending_dials,
        wait=settings.effective_wait,
        starter=starter,
        on_change=partial(reporter.upstream_changed, settings.name),
    )
    return Forward(
        settings.name,
        dialer,
        splicer,
        Limits(settings.idle_timeout, settings.half_close_timeout, settings.max_lifetime),
        max_connections=settings.max_connections,
        account=reporter.closed,
        exhausted=partial(reporter.exhausted, settings.name),
        hold=NOTHING if starter is None else starter,
    )


def _power(config: Config, network: Network, reporter: Reporter) -> dict[UUID | str, VmPower]:
    """One `VmPower` for each VM that a forward may start, saved when the most patient of them allows it."""
    patience: dict[UUID | str, float] = {}
    upstreams: dict[UUID | str, Endpoint] = {}
    for settings in config.forwards:
        vm = _vm_of(settings.connect)
        if settings.start and vm is not None:
            patience[vm] = max(patience.get(vm, 0.0), settings.idle_save)
            upstreams[vm] = settings.connect
    assert network.vms is not None or not patience  # a fault of the config otherwise
    return {
        vm: VmPower(
            upstreams[vm],
            partial(network.vm_of, upstreams[vm]),
            network.vms,
            idle_save=patience[vm],
            on_change=partial(reporter.vm_changed, vm_text(vm) if isinstance(vm, UUID) else vm),
        )
        for vm in patience
        if network.vms is not None
    }


def _vm_of(endpoint: Endpoint) -> UUID | str | None:
    return endpoint.vm if isinstance(endpoint, HypervEndpoint | NamedHypervEndpoint) else None


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
