"""The admin endpoint of a config: whether this machine can have one, and its start and end.

Its packages are loaded only for a config that has one.
"""

import logging
import stat
import sys
from pathlib import Path

from hvbridge import admin
from hvbridge.admin.tokens import read_token
from hvbridge.config import AdminSettings
from hvbridge.proxy.control import BridgeControl
from hvbridge.proxy.server import BindError, close_all
from hvbridge.transport.errors import ListenError
from hvbridge.transport.listener import Listener

logger = logging.getLogger(__name__)

_SHORTEST_TOKEN = 16
"""Characters: fewer could be guessed, at some thousand tries a second."""


def check_admin(settings: AdminSettings | None) -> None:
    """Raise ValueError where this machine cannot have the admin endpoint: its packages or its token are missing."""
    if settings is not None:
        admin.require()
        _read_token(settings)
        _warn_if_readable(settings)


class AdminEndpoint:
    """The admin endpoint, from its listeners to its end. Raises ValueError as `check_admin`."""

    def __init__(self, settings: AdminSettings) -> None:
        admin.require()
        from hvbridge.admin import server
        from hvbridge.admin.stats import Statistics

        self._server = server
        self._listen = settings.listen
        self._token = _read_token(settings)
        self._stats = Statistics()
        self._listeners: list[Listener] = []
        self.on_event = self._stats.on_event
        """Counts what happens."""

    async def bind(self) -> None:
        """Bind its listeners, which `close` closes. Raises `BindError`."""
        try:
            self._listeners = await self._server.bind(self._listen)
        except ListenError as error:
            raise BindError([("", error)]) from error

    def close(self) -> None:
        """Close the listeners."""
        close_all(self._listeners)

    async def serve(self, control: BridgeControl) -> None:
        """Serve until cancelled."""
        await self._server.serve(control, self._stats, self._listen, self._listeners, self._token)


def _read_token(settings: AdminSettings) -> str | None:
    if settings.token_file is None:
        return None
    file = Path(settings.token_file)
    token = read_token(file)
    if len(token) < _SHORTEST_TOKEN:
        raise ValueError(
            f'the token in "{file}" is too short; write at least {_SHORTEST_TOKEN} random characters'
        )
    if _mode(file) & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f'other users may write the token file "{file}"; run: chmod 600 "{file}"')
    return token


def _warn_if_readable(settings: AdminSettings) -> None:
    file = settings.token_file
    if file is not None and _mode(Path(file)) & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning('other users may read the token file "%s"; run: chmod 600 "%s"', file, file)


def _mode(file: Path) -> int:
    return file.stat().st_mode if sys.platform != "win32" else 0  # a profile's files have access lists there
