"""The forwards of a config, and how they become those of another: first what may fail and wait, then the rest."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from hvbridge.app.build import (
    admission_policy,
    build_health_check,
    build_route,
    idle_save_of,
    listen_options,
)
from hvbridge.config import Config
from hvbridge.config import Forward as ForwardSettings
from hvbridge.proxy.admission import Admission, SharedLimit
from hvbridge.proxy.background import run_guarded
from hvbridge.proxy.events import (
    AcceptPaused,
    BoundForward,
    ConnectionClosed,
    EventHandler,
    UpstreamChanged,
    VmChanged,
)
from hvbridge.proxy.forward import Forward
from hvbridge.proxy.health_check import HealthCheck
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.server import Server, bind_all, close_all
from hvbridge.proxy.upstream import UpstreamState
from hvbridge.proxy.vm_autostart import VmAutostart
from hvbridge.splice import Splicer
from hvbridge.transport.errors import DialError
from hvbridge.transport.listener import Listener
from hvbridge.transport.network import Network


@dataclass(eq=False, slots=True)
class RunningForward:
    """What was made of one forward of the config."""

    settings: ForwardSettings
    forward: Forward
    upstream: UpstreamState
    listen: Sequence[str]
    """Every address that was bound."""
    health: HealthCheck | None
    health_scope: trio.CancelScope
    """Cancelled to end the health check."""


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What is ready to take the place of the config that runs. Whoever holds it applies it, or closes it."""

    config: Config
    bound: Mapping[str, list[Listener]]
    """By the names of forwards that listen where none did."""
    taken_over: Mapping[str, str]
    """By the names of forwards, the names of those whose listeners they take over."""

    def close(self) -> None:
        """Close what was bound for it."""
        close_all(listener for listeners in self.bound.values() for listener in listeners)


async def first_plan(config: Config, network: Network) -> ReloadPlan:
    """Bind what a config needs where nothing runs yet. Raises `BindError`."""
    return ReloadPlan(config, await _bind(network, config.forwards), {})


class ForwardSet:
    """The forwards that run, in the server and the nursery that it is given."""

    def __init__(
        self,
        server: Server,
        nursery: trio.Nursery,
        splicer: Splicer,
        network: Network,
        on_event: EventHandler,
        plan: ReloadPlan,
    ) -> None:
        self.server = server
        self.config = plan.config
        self.running: dict[str, RunningForward] = {}
        """By name, in the order of the config."""
        self.last_closed = trio.current_time()
        """When the last connection closed, on trio's clock, or the beginning."""
        self._nursery = nursery
        self._splicer = splicer
        self._network = network
        self._on_event = on_event
        self._shared_limit = SharedLimit(plan.config.limits.max_connections)
        self._autostart: VmAutostart | None = None
        if network.vms is not None:
            self._autostart = VmAutostart(network.vms, network.vm_of, self._on_vm_change)
            nursery.start_soon(run_guarded, "starting and saving VMs", self._autostart.run)
        self.apply(plan)

    async def plan(self, config: Config) -> ReloadPlan:
        """Bind what ``config`` needs and nothing listens on yet. Raises `BindError`, and then nothing has changed."""
        free = {
            running.settings.listen: name
            for name, running in self.running.items()
            if self._is_listening(running) and not self._stays(running, config)
        }
        taken_over: dict[str, str] = {}
        missing: list[ForwardSettings] = []
        for settings in config.forwards:
            running = self.running.get(settings.name)
            if running is not None and self._stays(running, config):
                continue
            if settings.listen in free:
                taken_over[settings.name] = free.pop(settings.listen)
            else:
                missing.append(settings)
        return ReloadPlan(config, await _bind(self._network, missing), taken_over)

    def apply(self, plan: ReloadPlan) -> str:
        """Make the forwards those of the plan, and say what changed. Neither fails nor waits."""
        before, self.running, self.config = self.running, {}, plan.config
        self._shared_limit.resize(plan.config.limits.max_connections)
        if self._autostart is not None:
            self._autostart.configure(idle_save_of(plan.config))
        listeners = {**plan.bound, **self._stop_all_but(before, plan)}
        changes: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        for settings in plan.config.forwards:
            name = settings.name
            if name in listeners:
                self.running[name] = self._start(settings, listeners[name])
                changes["changed" if name in before else "added"].append(name)
            else:
                self.running[name] = before[name]
                if self._update(before[name], settings):
                    changes["changed"].append(name)
        changes["removed"] = [name for name in before if name not in self.running]
        return (
            "; ".join(f"{what}: {', '.join(names)}" for what, names in changes.items() if names)
            or "no change"
        )

    def bound(self) -> list[BoundForward]:
        """Every forward, and where it listens."""
        return [
            BoundForward(name, running.listen, str(running.settings.connect))
            for name, running in self.running.items()
        ]

    def is_listening(self, name: str) -> bool:
        """Whether the forward of that name accepts connections."""
        return self._is_listening(self.running[name])

    def _stop_all_but(
        self, before: Mapping[str, RunningForward], plan: ReloadPlan
    ) -> dict[str, list[Listener]]:
        """Stop the forwards that do not stay; return the listeners that others take over, by the names of those."""
        successors = {old: new for new, old in plan.taken_over.items()}
        taken_over = {}
        for name, running in before.items():
            if self._stays(running, plan.config):
                continue
            kept = self.server.stop(running.forward, keep=name in successors)
            if name in successors:
                taken_over[successors[name]] = kept
            running.health_scope.cancel()
        return taken_over

    def _is_listening(self, running: RunningForward) -> bool:
        return self.server.is_listening(running.forward)

    def _stays(self, running: RunningForward, config: Config) -> bool:
        """Whether ``config`` has the forward, listening where it does."""
        return self._is_listening(running) and any(
            settings.name == running.settings.name and settings.listen == running.settings.listen
            for settings in config.forwards
        )

    def _start(self, settings: ForwardSettings, listeners: list[Listener]) -> RunningForward:
        state = self._upstream_state(settings)
        forward = Forward(
            settings.name,
            build_route(settings, self._network, state, self._autostart),
            Admission(admission_policy(settings), self._shared_limit),
            self._splicer,
            on_close=self._on_close,
            on_accept_paused=partial(self._on_accept_paused, settings.name),
        )
        self.server.start(forward, listeners)
        where = [listener.where for listener in listeners]
        return RunningForward(settings, forward, state, where, *self._check_health(settings, state))

    def _update(self, running: RunningForward, settings: ForwardSettings) -> bool:
        """Let a forward that listens go on by ``settings``, and say whether they are new."""
        if settings == running.settings:
            return False
        if settings.connect != running.settings.connect:
            running.upstream = self._upstream_state(settings)
        running.settings = settings
        running.forward.route = build_route(settings, self._network, running.upstream, self._autostart)
        running.forward.admission.update(admission_policy(settings))
        running.health_scope.cancel()
        running.health, running.health_scope = self._check_health(settings, running.upstream)
        return True

    def _check_health(
        self, settings: ForwardSettings, state: UpstreamState
    ) -> tuple[HealthCheck | None, trio.CancelScope]:
        """Begin the health check that the settings ask for; return it, and what ends it."""
        check, scope = build_health_check(settings, self._network, state), trio.CancelScope()
        if check is not None:
            name = f'the health check of forward "{settings.name}"'
            self._nursery.start_soon(_run_in, scope, partial(run_guarded, name, check.run))
        return check, scope

    # Events.

    def _upstream_state(self, settings: ForwardSettings) -> UpstreamState:
        return UpstreamState(partial(self._on_upstream_change, settings.name))

    def _on_close(self, record: ConnectionRecord) -> None:
        self.last_closed = record.accepted + record.seconds
        self._on_event(ConnectionClosed(record))

    def _on_upstream_change(self, forward: str, error: DialError | None) -> None:
        self._on_event(UpstreamChanged(forward, error))

    def _on_accept_paused(self, forward: str, error: Exception) -> None:
        self._on_event(AcceptPaused(forward, error))

    def _on_vm_change(self, vm: str, change: str) -> None:
        self._on_event(VmChanged(vm, change))


async def _bind(network: Network, forwards: Iterable[ForwardSettings]) -> dict[str, list[Listener]]:
    wanted = [(settings.name, settings.listen, listen_options(settings)) for settings in forwards]
    names = (name for name, _, _ in wanted)
    return dict(zip(names, await bind_all(network, wanted), strict=True))


async def _run_in(scope: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await work()
