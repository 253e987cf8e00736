"""From the settings of a forward to the parts that it runs with: which setting goes where.

The config stops here: below, each part is given what it needs.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from hvbridge.address.endpoint import Endpoint, HypervEndpoint, NamedHypervEndpoint
from hvbridge.config import Config, EmulatorSettings
from hvbridge.config import Forward as ForwardSettings
from hvbridge.hyperv.guid import VM_WILDCARDS
from hvbridge.proxy.access_list import AccessList
from hvbridge.proxy.admission import AdmissionPolicy
from hvbridge.proxy.client_address import ProxyHeader
from hvbridge.proxy.forward import Route
from hvbridge.proxy.health_check import HealthCheck
from hvbridge.proxy.upstream import Dialer, UpstreamState
from hvbridge.proxy.vm_autostart import VmAutostart, no_lease
from hvbridge.splice import Limits
from hvbridge.transport.network import Network, emulated_network, network_from_environment
from hvbridge.transport.options import DialOptions, ListenOptions


def build_network(settings: EmulatorSettings | None, environ: Mapping[str, str]) -> Network:
    """Return the network that a config asks for, else the environment's, else the machine as it is."""
    if settings is None:
        return network_from_environment(environ)
    return emulated_network(
        Path(settings.dir), settings.partition, enforce_registration=settings.enforce_registration
    )


def build_route(
    settings: ForwardSettings, network: Network, state: UpstreamState, autostart: VmAutostart | None
) -> Route:
    """Return what the connections of a forward meet. ``autostart`` is that of the host's VMs; None off a host."""
    options = dial_options(settings)
    is_on_vm = isinstance(settings.connect, HypervEndpoint | NamedHypervEndpoint)
    assert autostart is not None or not settings.start  # a fault of the config otherwise
    dialer = Dialer(
        settings.connect,
        partial(network.dial, settings.connect, options),
        connect_nowait=network.connector_nowait(settings.connect, options),
        dial_timeout=settings.dial_timeout,
        max_pending=settings.max_pending_dials,
        wait=settings.effective_wait,
        start_vm=partial(autostart.start, settings.connect) if autostart and settings.start else None,
        state=state,
    )
    return Route(
        dialer,
        Limits(settings.idle_timeout, settings.half_close_timeout, settings.max_lifetime, settings.bandwidth),
        access_list=AccessList(settings.allow) if settings.allow else None,
        proxy_header=_proxy_header(settings),
        lease_vm=autostart.use.lease if autostart and is_on_vm else no_lease,
    )


def build_health_check(
    settings: ForwardSettings, network: Network, state: UpstreamState
) -> HealthCheck | None:
    """Return the health check of a forward's upstream; None where none is asked for."""
    if settings.health is None:
        return None
    options = replace(dial_options(settings), timeout=settings.health.timeout)
    return HealthCheck(
        settings.connect,
        partial(network.dial, settings.connect, options),
        state,
        interval=settings.health.interval,
        timeout=settings.health.timeout,
        expect=settings.health.expect.encode(),
    )


def admission_policy(settings: ForwardSettings) -> AdmissionPolicy:
    """Return the limits of a forward's admission."""
    return AdmissionPolicy(settings.max_connections, settings.rate, refuse=settings.when_full == "refuse")


def idle_save_of(config: Config) -> dict[Endpoint, float]:
    """Return after how many idle seconds each VM that may be started is saved, by its endpoint; the longest counts."""
    longest: dict[Endpoint, float] = {}
    for settings in config.forwards:
        if settings.start:
            longest[settings.connect] = max(longest.get(settings.connect, 0.0), settings.idle_save)
    return longest


def listen_options(settings: ForwardSettings) -> ListenOptions:
    """Return the options of a forward's listeners."""
    return ListenOptions(
        backlog=settings.backlog,
        buffer=settings.buffer,
        tcp_keepalive=settings.tcp_keepalive,
        connected_suspend=settings.connected_suspend,
    )


def dial_options(settings: ForwardSettings) -> DialOptions:
    """Return the options of a forward's dials."""
    return DialOptions(
        timeout=settings.dial_timeout,
        tcp_keepalive=settings.tcp_keepalive,
        connect_mode=settings.connect_mode,
        connected_suspend=settings.connected_suspend,
    )


def _proxy_header(settings: ForwardSettings) -> ProxyHeader | None:
    version = None if settings.proxy_protocol == "off" else settings.proxy_protocol
    if version is None and not settings.accept_proxy:
        return None
    vm = settings.connect.vm if isinstance(settings.connect, HypervEndpoint) else None
    known = None if vm in VM_WILDCARDS.values() else vm
    return ProxyHeader(settings.accept_proxy, version, forward=settings.name, upstream_vm=known)
