"""The composition root: from a checked config to running forwards, and from there to those of another config.

Owns: which setting goes where, and what a reload changes. The config stops here; below it, each part is given what it
needs.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

import trio

from hvbridge import admin, bridge
from hvbridge.admin.supervisor import ConnectionState, ForwardState, ReloadError
from hvbridge.admin.tokens import read_token
from hvbridge.config import AdminSettings, Config, ConfigError, EmulatorSettings
from hvbridge.config import Forward as ForwardConfig
from hvbridge.dialer import Dialer, UpstreamState
from hvbridge.endpoint import Endpoint, HypervEndpoint, NamedHypervEndpoint
from hvbridge.forward import NOTHING, Forward, Record, Way
from hvbridge.gate import Gate
from hvbridge.health import HealthCheck
from hvbridge.ids import VM_WILDCARDS, vm_text
from hvbridge.introduction import Introduction
from hvbridge.power import VmPower
from hvbridge.slots import Slots
from hvbridge.sources import Sources
from hvbridge.splice import Limits, Splicer, open_splicer
from hvbridge.transport.errors import DialError, ListenError
from hvbridge.transport.network import Network, emulated_network, network_from_environment
from hvbridge.transport.options import DialOptions, ListenOptions
from hvbridge.transport.sockets import Listener


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

    def reloaded(self, change: str) -> None:
        """The config file has been read again, and ``change`` made."""

    def reload_failed(self, faults: Sequence[str]) -> None:
        """The config file has been read again, and is left aside."""


def network_of(settings: EmulatorSettings | None, environ: Mapping[str, str]) -> Network:
    """Return the network that a config asks for, else the environment's, else the machine as it is."""
    if settings is None:
        return network_from_environment(environ)
    return emulated_network(
        Path(settings.dir), settings.partition, enforce_registration=settings.enforce_registration
    )


class Reporters:
    """Passes on to several reporters what happens."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = reporters

    def ready(self, forwards: Sequence[Bound]) -> None:
        for reporter in self._reporters:
            reporter.ready(forwards)

    def closed(self, record: Record) -> None:
        for reporter in self._reporters:
            reporter.closed(record)

    def upstream_changed(self, forward: str, error: DialError | None) -> None:
        for reporter in self._reporters:
            reporter.upstream_changed(forward, error)

    def exhausted(self, forward: str, error: OSError) -> None:
        for reporter in self._reporters:
            reporter.exhausted(forward, error)

    def vm_changed(self, vm: str, what: str) -> None:
        for reporter in self._reporters:
            reporter.vm_changed(vm, what)

    def reloaded(self, change: str) -> None:
        for reporter in self._reporters:
            reporter.reloaded(change)

    def reload_failed(self, faults: Sequence[str]) -> None:
        for reporter in self._reporters:
            reporter.reload_failed(faults)


async def run(
    config: Config,
    network: Network,
    shutdown: bridge.Shutdown,
    reporter: Reporter,
    *,
    load: Callable[[], Config] | None = None,
    attend: Callable[["Composition"], Awaitable[None]] | None = None,
) -> None:
    """Run every forward of ``config`` until ``shutdown``. Raises `bridge.BindError` before it is ready.

    ``load`` reads the config anew, for a reload. ``attend`` runs beside the forwards from when they are ready, and is
    cancelled when they have ended.
    """
    endpoint = None if config.admin is None else _Admin(config.admin)
    if endpoint is not None:
        reporter = Reporters([reporter, endpoint.statistics])
    composition = Composition(network, reporter, load)
    change = await composition.prepare(config)
    async with open_splicer() as splicer, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            await composition.bridge.run(shutdown, task_status=task_status)
            ended.set()

        await nursery.start(serve)
        if endpoint is None or await endpoint.starts(composition, nursery):
            composition.enter(splicer, nursery)
            composition.commit(change)
            reporter.ready(composition.bound())
            if attend is not None:
                nursery.start_soon(attend, composition)
            await ended.wait()
        else:
            _close(change)
        nursery.cancel_scope.cancel()
    if (
        endpoint is not None and endpoint.failure is not None
    ):  # out here, where no nursery makes a group of it
        raise bridge.BindError([("", endpoint.failure)])


def check_admin(settings: AdminSettings | None) -> None:
    """Raise ValueError where this machine cannot have the admin endpoint: its packages or its token are missing."""
    if settings is not None:
        admin.require()
        _token_of(settings)


def _token_of(settings: AdminSettings) -> str | None:
    return None if settings.token_file is None else read_token(Path(settings.token_file))


class _Admin:
    """The admin endpoint. Its packages are loaded only for it. Raises ValueError as `check_admin`."""

    def __init__(self, settings: AdminSettings) -> None:
        check_admin(settings)
        from hvbridge.admin.server import serve
        from hvbridge.admin.statistics import Statistics

        self.statistics = Statistics()
        self.failure: ListenError | None = None
        self._serve = serve
        self._listen = settings.listen
        self._token = _token_of(settings)

    async def starts(self, composition: "Composition", nursery: trio.Nursery) -> bool:
        """Serve in ``nursery``; False where it cannot be listened on, which ``failure`` then tells."""
        try:
            await nursery.start(self._serve, composition, self.statistics, self._listen, self._token)
        except ListenError as error:
            self.failure = error
            return False
        return True


@dataclass(eq=False, slots=True)
class _Part:
    """What was made of one forward of the config."""

    settings: ForwardConfig
    forward: Forward
    state: UpstreamState
    places: Slots
    where: Sequence[str]
    health: HealthCheck | None = None
    checking: trio.CancelScope | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """What is ready to take the place of the config that runs. Its listeners are bound."""

    config: Config
    bound: Mapping[str, list[Listener]]
    """By the names of forwards that listen where none did."""
    taken: Mapping[str, str]
    """By the names of forwards, the names of those whose listeners they take over."""


class Composition:
    """The forwards of a config, and how they become those of another: the `hvbridge.admin` supervisor."""

    def __init__(
        self, network: Network, reporter: Reporter, load: Callable[[], Config] | None = None
    ) -> None:
        self.bridge = bridge.Bridge()
        self._network = network
        self._reporter = reporter
        self._load = load
        self._config: Config | None = None
        self._parts: dict[str, _Part] = {}
        self._power: dict[UUID | str, VmPower] = {}
        self._everywhere = Slots(0)
        self._reloading = trio.Lock()
        self._last_closed = trio.current_time()
        self._splicer: Splicer
        self._nursery: trio.Nursery

    # A config takes effect: first what may fail and wait, then what may not.

    async def prepare(self, config: Config) -> _Change:
        """Bind what the forwards of ``config`` need and nothing listens on yet. Raises `bridge.BindError`."""
        free = {
            part.settings.listen: name
            for name, part in self._parts.items()
            if self._is_listening(part) and not self._keeps(config, part)
        }
        taken: dict[str, str] = {}
        missing: list[ForwardConfig] = []
        for settings in config.forwards:
            part = self._parts.get(settings.name)
            if part is not None and self._is_listening(part) and part.settings.listen == settings.listen:
                continue
            if settings.listen in free:
                taken[settings.name] = free.pop(settings.listen)
            else:
                missing.append(settings)
        bound = await bridge.bind_all(
            self._network,
            ((settings.name, settings.listen, _listen_options(settings)) for settings in missing),
        )
        names = (settings.name for settings in missing)
        return _Change(config, dict(zip(names, bound, strict=True)), taken)

    def enter(self, splicer: Splicer, nursery: trio.Nursery) -> None:
        """Take what forwards run with; to be called once, before the first `commit`."""
        self._splicer = splicer
        self._nursery = nursery

    def commit(self, change: _Change) -> str:
        """Make the change, and say what it was."""
        config, before = change.config, self._parts
        self._everywhere.resize(config.limits.max_connections)
        self._power_up(config)
        listeners = dict(change.bound)
        ended = [part for part in before.values() if not self._keeps(config, part)]
        for part in ended:
            successor = next((new for new, old in change.taken.items() if before[old] is part), None)
            kept = self.bridge.stop(part.forward, keep=successor is not None)
            if successor is not None:
                listeners[successor] = kept
            _cancel(part.checking)
        said: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        self._config, self._parts = config, {}
        for settings in config.forwards:
            name = settings.name
            if name in listeners:
                self._parts[name] = self._started(settings, listeners[name])
                said["changed" if name in before else "added"].append(name)
            else:
                self._parts[name] = part = before[name]
                if part.settings != settings:
                    self._alter(part, settings)
                    said["changed"].append(name)
        said["removed"] = [name for name in before if name not in self._parts]
        return (
            "; ".join(f"{what}: {', '.join(names)}" for what, names in said.items() if names) or "no change"
        )

    async def reload(self) -> str:
        """Read the config anew and make its forwards run; return what changed.

        Raises `ReloadError`, and then nothing has changed.
        """
        async with self._reloading:
            try:
                prepared = await self._prepared_anew()
                if self.bridge.is_ending:
                    _close(prepared)
                    raise ReloadError(["hvbridge is ending"])
                change = self.commit(prepared)
            except ReloadError as error:
                self._reporter.reload_failed(error.faults)
                raise
            self._reporter.reloaded(change)
            return change

    async def _prepared_anew(self) -> _Change:
        if self._load is None:
            raise ReloadError(["there is no config file to read again"])
        try:
            config = self._load()
        except ConfigError as error:
            raise ReloadError([str(fault) for fault in error.faults]) from error
        assert self._config is not None
        fixed = [
            name for name in ("admin", "emulator") if getattr(config, name) != getattr(self._config, name)
        ]
        if fixed:
            raise ReloadError([f"[{name}] has changed; that takes a restart" for name in fixed])
        try:
            return await self.prepare(config)
        except bridge.BindError as error:
            raise ReloadError(error.messages) from error

    # What runs, and what may be done with it.

    def bound(self) -> list[Bound]:
        """Every forward that listens."""
        return [Bound(name, part.where, str(part.settings.connect)) for name, part in self._parts.items()]

    def is_ready(self) -> bool:
        """Whether every forward listens, and every health check that is asked for passes."""
        return all(
            self._is_listening(part) and (part.health is None or part.health.passes)
            for part in self._parts.values()
        )

    def forwards(self) -> list[ForwardState]:
        """Every forward, in the config's order."""
        return [
            ForwardState(
                name=name,
                listen=part.where,
                connect=str(part.settings.connect),
                state="listening" if self._is_listening(part) else "draining",
                upstream=_upstream_word(part.state),
                upstream_cause="" if part.state.error is None else part.state.error.why,
                health="" if part.health is None else "passing" if part.health.passes else "failing",
                connections=len(part.forward.open),
                max_connections=part.settings.max_connections,
            )
            for name, part in self._parts.items()
        ]

    def connections(self, forward: str | None = None) -> list[ConnectionState]:
        """Every connection that is open, those of forwards that are gone included."""
        now = trio.current_time()
        return [
            ConnectionState(
                id=record.id,
                forward=record.forward,
                peer=record.peer,
                upstream=str(record.upstream),
                state="dialling" if record.dial_seconds is None else "open",
                seconds=now - record.accepted,
                client_to_upstream=record.transfer.client_to_upstream,
                upstream_to_client=record.transfer.upstream_to_client,
            )
            for record in self.bridge.connections()
            if forward is None or record.forward == forward
        ]

    def close(self, connection_id: int) -> bool:
        """Close a connection; False where there is none of that id."""
        return any(serving.forward.close(connection_id) for serving in self.bridge.serving)

    def drain(self, forward: str) -> bool:
        """Let a forward accept no more, until a reload; False where there is none of that name."""
        part = self._parts.get(forward)
        if part is None:
            return False
        self.bridge.stop(part.forward)
        return True

    def quiet_since(self) -> float | None:
        """When the last connection closed, on trio's clock, or the beginning; None while any is open."""
        return None if self.bridge.connections() else self._last_closed

    def _closed(self, record: Record) -> None:
        self._last_closed = record.accepted + record.seconds
        self._reporter.closed(record)

    def _is_listening(self, part: _Part) -> bool:
        return any(
            serving.forward is part.forward and not serving.is_draining for serving in self.bridge.serving
        )

    def _keeps(self, config: Config, part: _Part) -> bool:
        """Whether ``config`` has the forward, listening where it does."""
        return self._is_listening(part) and any(
            settings.name == part.settings.name and settings.listen == part.settings.listen
            for settings in config.forwards
        )

    # The parts.

    def _started(self, settings: ForwardConfig, listeners: list[Listener]) -> _Part:
        state, places = self._state(settings), Slots(settings.max_connections)
        forward = Forward(
            settings.name,
            self._way(settings, state, places),
            self._splicer,
            account=self._closed,
            exhausted=partial(self._reporter.exhausted, settings.name),
        )
        part = _Part(settings, forward, state, places, [listener.where for listener in listeners])
        self.bridge.start(forward, listeners)
        self._check_health(part)
        return part

    def _alter(self, part: _Part, settings: ForwardConfig) -> None:
        """Let new connections of a forward that listens go by new settings."""
        if settings.connect != part.settings.connect:
            part.state = self._state(settings)
        part.settings = settings
        part.places.resize(settings.max_connections)
        part.forward.way = self._way(settings, part.state, part.places)
        self._check_health(part)

    def _state(self, settings: ForwardConfig) -> UpstreamState:
        return UpstreamState(partial(self._reporter.upstream_changed, settings.name))

    def _way(self, settings: ForwardConfig, state: UpstreamState, places: Slots) -> Way:
        starter = self._power.get(_vm_of(settings.connect) or "") if settings.start else None
        options = _dial_options(settings)
        dialer = Dialer(
            settings.connect,
            partial(self._network.dial, settings.connect, options),
            dial_at_once=self._network.at_once(settings.connect, options),
            dial_timeout=settings.dial_timeout,
            max_pending=settings.max_pending_dials,
            wait=settings.effective_wait,
            starter=starter,
            state=state,
        )
        return Way(
            dialer,
            Limits(
                settings.idle_timeout, settings.half_close_timeout, settings.max_lifetime, settings.bandwidth
            ),
            Gate([places, self._everywhere], settings.rate, refuses=settings.when_full == "refuse"),
            sources=Sources(settings.allow) if settings.allow else None,
            hold=NOTHING if starter is None else starter,
            introduction=_introduction(settings),
        )

    def _check_health(self, part: _Part) -> None:
        """Begin the health check that the settings ask for, in place of any before."""
        _cancel(part.checking)
        part.health = part.checking = None
        settings = part.settings.health
        if settings is None:
            return
        options = replace(_dial_options(part.settings), timeout=settings.timeout)
        part.health = HealthCheck(
            part.settings.connect,
            partial(self._network.dial, part.settings.connect, options),
            part.state,
            interval=settings.interval,
            timeout=settings.timeout,
            expect=settings.expect.encode(),
        )
        part.checking = trio.CancelScope()
        self._nursery.start_soon(_in_scope, part.checking, part.health.run)

    def _power_up(self, config: Config) -> None:
        """Have one `VmPower` for each VM that a forward may start, saved when the most patient of them allows it."""
        patience: dict[UUID | str, float] = {}
        upstreams: dict[UUID | str, Endpoint] = {}
        for settings in config.forwards:
            vm = _vm_of(settings.connect)
            if settings.start and vm is not None:
                patience[vm] = max(patience.get(vm, 0.0), settings.idle_save)
                upstreams[vm] = settings.connect
        assert self._network.vms is not None or not patience  # a fault of the config otherwise
        for vm, idle_save in patience.items():
            if vm in self._power:
                self._power[vm].idle_save = idle_save
            elif self._network.vms is not None:
                self._power[vm] = VmPower(
                    upstreams[vm],
                    partial(self._network.vm_of, upstreams[vm]),
                    self._network.vms,
                    idle_save=idle_save,
                    on_change=partial(self._reporter.vm_changed, vm_text(vm) if isinstance(vm, UUID) else vm),
                )
                self._nursery.start_soon(self._power[vm].save_when_idle)


def _close(change: _Change) -> None:
    """Let go of what was bound for a change that is not made."""
    bridge.close_all(listener for listeners in change.bound.values() for listener in listeners)


async def _in_scope(scope: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await work()


def _cancel(scope: trio.CancelScope | None) -> None:
    if scope is not None:
        scope.cancel()


def _upstream_word(state: UpstreamState) -> str:
    if not state.is_known:
        return "unknown"
    return "up" if state.error is None else "down"


def _introduction(settings: ForwardConfig) -> Introduction | None:
    version = None if settings.proxy_protocol == "off" else settings.proxy_protocol
    if version is None and not settings.accept_proxy:
        return None
    vm = settings.connect.vm if isinstance(settings.connect, HypervEndpoint) else None
    known = None if vm in VM_WILDCARDS.values() else vm
    return Introduction(settings.accept_proxy, version, forward=settings.name, upstream_vm=known)


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
