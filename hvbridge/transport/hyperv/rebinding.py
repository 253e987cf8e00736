"""A listener for a VM that is called by its name, and whose id may change: it follows.

Owns: looking, and binding anew. Refuses: how VMs are found, and how a listener is bound.

WSL's utility VM has another id each time it starts, and a listener hears only the id that it was bound to.
"""

import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

import trio

from hvbridge.hyperv.vms import VmError
from hvbridge.transport.errors import ListenError
from hvbridge.transport.listener import Listener
from hvbridge.transport.stream import SocketStream

logger = logging.getLogger(__name__)


class RebindingListener(Listener):
    """Listens for one VM by way of another listener, which it closes and replaces when the VM's id changes.

    ``look`` returns the id that the name means now, every ``interval`` seconds while nobody connects.
    """

    def __init__(
        self,
        where: str,
        vm: UUID,
        listener: Listener,
        *,
        look: Callable[[], Awaitable[UUID]],
        bind: Callable[[UUID], Awaitable[Listener]],
        interval: float,
    ) -> None:
        self.where = where
        self._vm = vm
        self._listener = listener
        self._look = look
        self._bind = bind
        self._interval = interval
        self._next_look = trio.current_time() + interval
        self._is_failure_told = False

    async def wait_acceptable(self) -> None:
        """As `Listener.wait_acceptable`, following the VM meanwhile."""
        while True:
            with trio.CancelScope(deadline=self._next_look):
                await self._listener.wait_acceptable()
                return
            await self._follow()
            self._next_look = trio.current_time() + self._interval

    def accept_nowait(self, at_most: int) -> list[SocketStream]:
        """As `Listener.accept_nowait`."""
        return self._listener.accept_nowait(at_most)

    def close(self) -> None:
        """As `Listener.close`."""
        self._listener.close()

    async def _follow(self) -> None:
        try:
            vm = await self._look()
            if vm == self._vm:
                return
            listener = await self._bind(vm)
        except VmError:
            return  # it does not run, or cannot be asked for: nobody will connect until it can
        except ListenError as error:
            if not self._is_failure_told:
                logger.warning("%s", error)
            self._is_failure_told = True
            return
        logger.info("%s has another id: listening for %s, no longer for %s", self.where, vm, self._vm)
        self._listener.close()
        self._listener, self._vm, self._is_failure_told = listener, vm, False
