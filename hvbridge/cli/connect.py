"""`hvbridge connect`: splices standard input and output with an endpoint."""

import errno
import os
import sys

import trio

from hvbridge.address.endpoint import Endpoint, parse_endpoint
from hvbridge.address.placement import connect_fault
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, print_error
from hvbridge.splice import Limits, Reason, Transfer, open_splicer
from hvbridge.transport.errors import DialError
from hvbridge.transport.network import Network, network_from_environment
from hvbridge.transport.options import ConnectMode, DialOptions
from hvbridge.transport.stream import Stream
from hvbridge.units import parse_duration

_HALF_CLOSE_TIMEOUT = 300.0
"""Seconds without data after one side has ended; the default of a forward."""
_STDIN, _STDOUT = 0, 1


def connect(target: str, *, dial_timeout: str, connect_mode: str) -> int:
    """Splice standard input and output with ``target``; return the exit code."""
    try:
        network = network_from_environment(os.environ)
        endpoint = parse_endpoint(target, network.services)
        timeout = parse_duration(dial_timeout, off=True)
        mode = _connect_mode(connect_mode)
        if fault := connect_fault(endpoint) or network.fault(endpoint, "connect"):
            raise ValueError(f"{endpoint}: {fault}")
    except ValueError as error:
        print_error(error)
        return EXIT_USAGE
    options = DialOptions(timeout=timeout, connect_mode=mode)
    transfer: Transfer | None = None
    try:
        transfer = trio.run(_connect, network, endpoint, options)
    except* DialError as failed:
        print_error(failed.exceptions[0])
    except* KeyboardInterrupt:  # bare or, out of a nursery, in a group
        pass
    if transfer is None:
        return EXIT_FAILURE
    if transfer.reason is not Reason.EOF:
        print_error(f"{endpoint}: {transfer.reason}{': ' if transfer.detail else ''}{transfer.detail}")
        return EXIT_FAILURE
    return EXIT_OK


async def _connect(network: Network, endpoint: Endpoint, options: DialOptions) -> Transfer:
    upstream = await network.dial(endpoint, options)
    transfer = Transfer()
    async with open_splicer() as splicer:
        await splicer.splice(
            StdioStream(), upstream, Limits(half_close_timeout=_HALF_CLOSE_TIMEOUT), transfer
        )
    return transfer


def _connect_mode(text: str) -> ConnectMode:
    match text:
        case "auto" | "nonblocking" | "thread":
            return text
    raise ValueError(f'--connect-mode: "{text}" is not a mode; write auto, nonblocking or thread')


class StdioStream(Stream):
    """Standard input and output, read and written in threads.

    Threads work with every kind of standard stream (pipe, console, file) on every system, and do not change its
    blocking mode, which other processes share.
    """

    def __init__(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            for descriptor in (_STDIN, _STDOUT):
                msvcrt.setmode(descriptor, os.O_BINARY)
        self._writable = True
        self._output_is_read = True
        self._reading = trio.CancelScope()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read available data; empty at the end of the input.

        Raises `trio.BrokenResourceError`, also once standard output has been closed by its reader: both streams
        belong to one peer, and a peer that left only standard input open would keep this process alive forever.
        """
        size = max_bytes or 65536
        with trio.CancelScope() as self._reading:
            if not self._output_is_read:
                self._reading.cancel()
            try:
                return await trio.to_thread.run_sync(os.read, _STDIN, size, abandon_on_cancel=True)
            except OSError as error:
                raise trio.BrokenResourceError from error
        raise trio.BrokenResourceError from BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    async def receive_into(self, buffer: memoryview) -> int:
        """As `Stream.receive_into`."""
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``. Raises `trio.BrokenResourceError` if the reader has closed standard output."""
        rest = memoryview(data)
        try:
            while rest:
                # A copy for the thread: it may outlive a cancelled send, and the buffer with it.
                written = await trio.to_thread.run_sync(
                    os.write, _STDOUT, bytes(rest), abandon_on_cancel=True
                )
                rest = rest[written:]
        except OSError as error:
            self._output_is_read = False
            self._reading.cancel()
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: standard output cannot be polled, so `send_all` waits in a thread."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Close standard output."""
        await trio.lowlevel.checkpoint()
        self._close_output()

    async def aclose(self) -> None:
        """Close standard output. Standard input stays open until the process exits."""
        self._close_output()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """As `aclose`: a pipe has no reset, so the exit code reports the failure."""
        self._close_output()

    def _close_output(self) -> None:
        if self._writable:
            self._writable = False
            # Redirected rather than closed, so that the descriptor is not reused.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, _STDOUT)
            os.close(null)
