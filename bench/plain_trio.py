"""The baseline: what a trio program does without further thought. `python plain_trio.py PORT ADDRESS`.

Kept as it is on purpose: trio's own streams, one task a direction, 64 KiB chunks, half-close, nothing tuned.
ADDRESS is tcp:127.0.0.1:PORT, unix:PATH or vsock:1:PORT.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import trio

CHUNK = 64 * 1024


async def dial(address: str) -> trio.abc.HalfCloseableStream:
    """Connect to ADDRESS."""
    kind, _, where = address.partition(":")
    if kind == "unix":
        return await trio.open_unix_socket(where)
    host, _, port = where.rpartition(":")
    if kind == "tcp":
        return await trio.open_tcp_stream(host, int(port))
    sock = trio.socket.socket(trio.socket.AF_VSOCK, trio.socket.SOCK_STREAM)
    await sock.connect((int(host), int(port)))
    return trio.SocketStream(sock)


async def pump(src: trio.abc.HalfCloseableStream, dst: trio.abc.HalfCloseableStream) -> None:
    """One way, until its end."""
    while chunk := await src.receive_some(CHUNK):
        await dst.send_all(chunk)
    await dst.send_eof()


async def splice(address: str, client: trio.SocketStream) -> None:
    """One connection."""
    with contextlib.suppress(OSError, ExceptionGroup):
        async with client, await dial(address) as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, upstream)
            nursery.start_soon(pump, upstream, client)


if __name__ == "__main__":
    trio.run(
        partial(
            trio.serve_tcp, partial(splice, sys.argv[2]), int(sys.argv[1]), host="127.0.0.1", backlog=4096
        )
    )
