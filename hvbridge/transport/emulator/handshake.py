"""What the emulator's carriers share: an accepted connection first says from which partition it comes."""

import socket
from collections.abc import Callable

import trio

from hvbridge.transport.stream import HANDSHAKE_TIMEOUT, HandshakeError

LEFT = "it disconnected before identifying itself"


async def receive_identity(sock: socket.socket, receive: Callable[[], None]) -> None:
    """Call ``receive`` until it raises BlockingIOError no more; wait on ``sock`` in between.

    Raises `HandshakeError` also for every other OSError of ``receive``: a client that leaves is not a bug.
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
