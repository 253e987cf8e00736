"""Remembers which VM a name means, until a dial finds that VM gone."""

import math
from uuid import UUID

import trio

from hvbridge.hyperv.vms import WSL, VmDirectory, find

_FRESH = 5.0
"""Seconds for which an answer is not asked for again: while a VM is off, every connection would ask."""


class VmResolver:
    """From names to ids: asked for at the first use, together for those who ask at once, and kept."""

    def __init__(self, directory: VmDirectory) -> None:
        self.directory = directory
        self._known: dict[str, UUID] = {}
        self._asked: dict[str, float] = {}
        self._asking = trio.Lock()

    async def resolve(self, name: str, *, start: bool = True) -> UUID:
        """Return the id of the VM called ``name``, which may ``start`` WSL. Raises `VmError`."""
        if name not in self._known:
            async with self._asking:
                if name not in self._known:  # another task may have asked meanwhile
                    self._known[name] = await self._ask(name, start=start)
        return self._known[name]

    async def refresh(self, name: str, vm: UUID) -> UUID:
        """Ask anew after the answer ``vm`` has failed, unless that was asked for a moment ago. Raises `VmError`."""
        async with self._asking:
            asked = self._asked.get(name, -math.inf)
            if self._known.get(name) == vm and trio.current_time() - asked >= _FRESH:
                self._known[name] = await self._ask(name)
        return self._known[name]

    async def look(self, name: str) -> UUID:
        """Ask what ``name`` means now, without starting anything. Raises `VmError`."""
        async with self._asking:
            self._known[name] = vm = await self._ask(name, start=False)
        return vm

    async def _ask(self, name: str, *, start: bool = True) -> UUID:
        self._asked[name] = trio.current_time()
        if name.casefold() == WSL:
            return await self.directory.wsl_vm_id(start=start)
        return find(name, await self.directory.vms()).id
