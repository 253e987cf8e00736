"""A listener for a VM by name, which rebinds when the VM's id changes.

WSL's utility VM gets a new id each time it starts, and a listener accepts only from the id that it was bound to.
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
    """Listens for one VM through another listener, which it replaces when the VM's id changes.

    ``look`` returns the current id of the VM; it is called every ``interval`` seconds while no client connects.
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
        self._failure_logged = False

    async def wait_acceptable(self) -> None:
        """As `Listener.wait_acceptable`; rebinds meanwhile if the VM's id changes."""
        while True:
            with trio.CancelScope(deadline=self._next_look):
                await self._listener.wait_acceptable()
                return
            await self._rebind()
            self._next_look = trio.current_time() + self._interval

    def accept_nowait(self, at_most: int) -> list[SocketStream]:
        """As `Listener.accept_nowait`."""
        return self._listener.accept_nowait(at_most)

    def close(self) -> None:
        """As `Listener.close`."""
        self._listener.close()

    async def _rebind(self) -> None:
        try:
            vm = await self._look()
            if vm == self._vm:
                return
            listener = await self._bind(vm)
        except VmError:
            return  # not running, or not available: no client can connect until it is
        except ListenError as error:
            if not self._failure_logged:
                logger.warning("%s", error)
            self._failure_logged = True
            return
        logger.info("%s has another id: listening for %s, no longer for %s", self.where, vm, self._vm)
        self._listener.close()
        self._listener, self._vm, self._failure_logged = listener, vm, False
