"""What a running bridge tells of itself, and does when asked: `hvbridge.proxy.control.BridgeControl`, carried out."""

from collections.abc import Callable

import trio

from hvbridge.app.forward_set import ForwardSet, RunningForward
from hvbridge.app.reload import Reloader
from hvbridge.proxy.control import ConnectionState, ForwardState, Losses
from hvbridge.proxy.health_check import HealthCheck
from hvbridge.proxy.record import ConnectionRecord
from hvbridge.proxy.upstream import UpstreamState


class Control:
    """The control of the forwards that run."""

    def __init__(
        self, forwards: ForwardSet, reloader: Reloader, losses: Callable[[], Losses] = lambda: Losses(0, 0)
    ) -> None:
        self._forwards = forwards
        self._reloader = reloader
        self._losses = losses

    def is_ready(self) -> bool:
        """As `BridgeControl.is_ready`."""
        return all(
            self._forwards.is_listening(name) and (running.health is None or running.health.passes)
            for name, running in self._forwards.running.items()
        )

    def forwards(self) -> list[ForwardState]:
        """As `BridgeControl.forwards`, in the config's order."""
        return [self._forward_state(name, running) for name, running in self._forwards.running.items()]

    def connections(self, forward: str | None = None) -> list[ConnectionState]:
        """As `BridgeControl.connections`; those of forwards that are gone are included."""
        now = trio.current_time()
        return [
            _connection_state(record, now)
            for record in self._forwards.server.connections()
            if forward is None or record.forward == forward
        ]

    def close(self, connection_id: int) -> bool:
        """As `BridgeControl.close`."""
        return any(active.forward.close(connection_id) for active in self._forwards.server.active)

    def drain(self, forward: str) -> bool:
        """As `BridgeControl.drain`; a reload lets the forward listen again."""
        running = self._forwards.running.get(forward)
        if running is None:
            return False
        self._forwards.server.stop(running.forward)
        return True

    def losses(self) -> Losses:
        """As `BridgeControl.losses`."""
        return self._losses()

    async def reload(self) -> str:
        """As `BridgeControl.reload`."""
        return await self._reloader.reload()

    def quiet_since(self) -> float | None:
        """When the last connection closed, on trio's clock, or the beginning; None while any is open."""
        return None if self._forwards.server.connections() else self._forwards.last_closed

    def _forward_state(self, name: str, running: RunningForward) -> ForwardState:
        error = running.upstream.error
        return ForwardState(
            name=name,
            listen=running.listen,
            connect=str(running.settings.connect),
            state="listening" if self._forwards.is_listening(name) else "draining",
            upstream=_upstream_word(running.upstream),
            upstream_cause="" if error is None else error.why,
            health=_health_word(running.health),
            connections=len(running.forward.open),
            max_connections=running.settings.max_connections,
        )


def _connection_state(record: ConnectionRecord, now: float) -> ConnectionState:
    return ConnectionState(
        id=record.id,
        forward=record.forward,
        peer=record.peer,
        upstream=str(record.upstream),
        state="dialling" if record.dial_seconds is None else "open",
        seconds=now - record.accepted,
        client_to_upstream=record.transfer.client_to_upstream,
        upstream_to_client=record.transfer.upstream_to_client,
    )


def _upstream_word(state: UpstreamState) -> str:
    if not state.is_known:
        return "unknown"
    return "up" if state.error is None else "down"


def _health_word(check: HealthCheck | None) -> str:
    if check is None:
        return ""
    return "passing" if check.passes else "failing"
