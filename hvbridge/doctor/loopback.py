"""Tests each connect mode of Hyper-V sockets over HV_GUID_LOOPBACK, within this partition."""

import uuid
from contextlib import suppress

import trio

from hvbridge.address.endpoint import HypervEndpoint
from hvbridge.doctor import Check, Finding, State
from hvbridge.hyperv.guid import LOOPBACK
from hvbridge.transport.errors import Cause, DialError, TransportError
from hvbridge.transport.network import Network
from hvbridge.transport.options import ConnectMode, DialOptions, ListenOptions
from hvbridge.transport.stream import HandshakeError, SocketStream

_DIAL_TIMEOUT = 3.0
_TEST_TIMEOUT = 5.0
"""Seconds; a connection within one machine takes far less."""
_GREETING = b"hvbridge doctor"


async def check_connect_mode(network: Network) -> Finding:
    """Connect within this partition in each mode, and exchange a few bytes."""
    here = HypervEndpoint(LOOPBACK, uuid.uuid4())
    try:
        (listener,) = await network.listen(here, ListenOptions())
    except TransportError as error:
        return _untested(error)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _greet, [listener])
        nonblocking = await _failure(network, here, "nonblocking")
        thread = await _failure(network, here, "thread")
        nursery.cancel_scope.cancel()
    if nonblocking is None and thread is None:
        return Finding(Check.CONNECT_MODE, State.OK, "nonblocking and thread both connect over loopback")
    if nonblocking is None:
        summary = f"nonblocking connects over loopback; thread does not: {_why(thread)}"
        return Finding(Check.CONNECT_MODE, State.DOUBTFUL, summary, "leave connect_mode at its default")
    if thread is None:
        return Finding(
            Check.CONNECT_MODE,
            State.DOUBTFUL,
            f"thread connects over loopback; nonblocking does not: {_why(nonblocking)}",
            'auto detects this at its first dial; connect_mode = "thread" saves the attempt',
        )
    if isinstance(nonblocking, DialError) and nonblocking.cause is Cause.NOT_PERMITTED:
        return _untested(nonblocking)
    summary = f"nothing connects over loopback; nonblocking: {_why(nonblocking)}; thread: {_why(thread)}"
    advice = "see whether the dial check succeeds; if not, Hyper-V sockets do not work on this machine"
    return Finding(Check.CONNECT_MODE, State.FAILED, summary, advice)


def _untested(error: TransportError) -> Finding:
    """A test that failed early. NOT_PERMITTED says nothing about the modes: the test's service is not registered."""
    summary = f"loopback could not be tested: {error.why}"
    if error.cause is Cause.NOT_PERMITTED:
        return Finding(Check.CONNECT_MODE, State.DOUBTFUL, summary)
    advice = "turn on Hyper-V, or the Virtual Machine Platform, in the Windows features"
    return Finding(Check.CONNECT_MODE, State.FAILED, summary, advice)


async def _failure(network: Network, here: HypervEndpoint, mode: ConnectMode) -> DialError | str | None:
    """Why a connection in ``mode`` fails; None when it works."""
    with trio.move_on_after(_TEST_TIMEOUT):
        try:
            async with await network.dial(here, DialOptions(_DIAL_TIMEOUT, connect_mode=mode)) as client:
                if await client.receive_some() == _GREETING:
                    return None
        except DialError as error:
            return error
        except trio.BrokenResourceError as error:
            return str(error)
    return "it connects, but no data arrives"


async def _greet(client: SocketStream) -> None:
    """Greet a client. It may already be gone, if its connect failed halfway."""
    async with client:
        with suppress(trio.BrokenResourceError, HandshakeError):
            await client.do_handshake()
            await client.send_all(_GREETING)
            await client.receive_some()  # until the client has read it


def _why(failure: DialError | str | None) -> str:
    return failure.why if isinstance(failure, DialError) else str(failure)
