"""The handshake of the emulator's carriers, in which a client names its partition."""

import socket
from collections.abc import Callable

import trio

from hvbridge.transport.stream import HANDSHAKE_TIMEOUT, HandshakeError

LEFT = "it disconnected before identifying itself"


async def receive_identity(sock: socket.socket, receive: Callable[[], None]) -> None:
    """Call ``receive`` until it no longer raises BlockingIOError, and wait for ``sock`` in between.

    Raises `HandshakeError`, also for any other OSError of ``receive``: a client that disconnects is not a bug.
    """
    with trio.move_on_after(HANDSHAKE_TIMEOUT):
        while True:
            try:
                return receive()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
            except OSError as error:
                raise HandshakeError(f"{LEFT} ({error.strerror})") from error
    raise HandshakeError("it did not identify itself in time")
