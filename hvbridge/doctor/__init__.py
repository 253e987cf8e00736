"""What may be wrong, looked at one thing after another.

Owns: what a finding is, the names of all checks, and which of them tell more about a cause. Refuses: mending
anything, and how a finding is shown.

Machines are told apart by one seam (`machine`), so that recorded facts of one can be judged on another. Parsers
go by numbers, ids and positions, for the programs of Windows speak the language of their user.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hvbridge.transport.errors import Cause


class State(StrEnum):
    """How a check went; the value is what programs read."""

    OK = "ok"
    FAILED = "failed"
    DOUBTFUL = "doubtful"
    """It may be right, or it could not be told."""
    NOT_APPLICABLE = "not applicable"


class Check(StrEnum):
    """What is checked; the value is its name on the screen, for programs and in the documentation."""

    PYTHON = "python"
    EMULATOR = "emulator"
    HYPERV = "hyper-v"
    RIGHTS = "rights"
    CONNECT_MODE = "connect-mode"
    WSL2 = "wsl2"
    GUEST = "guest"
    HV_SOCK = "hv_sock"
    VSOCK = "vsock"
    CID = "cid"
    SSHD = "sshd"
    LOW_PORTS = "low-ports"
    LISTEN = "listen"
    VM = "vm"
    SERVICE = "service"
    DIAL = "dial"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: one sentence, and what to do about it where there is something to do."""

    check: Check
    state: State
    summary: str
    advice: str = ""
    forward: str = ""
    """The forward that was checked; "" for the machine."""


CHECKS_OF_CAUSE: Final[Mapping[Cause, tuple[Check, ...]]] = MappingProxyType(
    {
        Cause.NOT_RUNNING: (Check.VM, Check.DIAL),
        Cause.VM_NOT_STARTED: (Check.VM, Check.RIGHTS),
        Cause.NOBODY_LISTENING: (Check.DIAL, Check.SSHD, Check.WSL2),
        Cause.REFUSED: (Check.DIAL,),
        Cause.NOT_PERMITTED: (Check.SERVICE, Check.RIGHTS, Check.LISTEN, Check.LOW_PORTS),
        Cause.OUT_OF_MEMORY: (Check.DIAL,),
        Cause.OUT_OF_DESCRIPTORS: (Check.DIAL, Check.LISTEN),
        Cause.TIMED_OUT: (Check.DIAL,),
        Cause.UNREACHABLE: (Check.DIAL,),
        Cause.NAME_UNKNOWN: (Check.VM, Check.DIAL),
        Cause.IN_USE: (Check.LISTEN,),
        Cause.NO_DIRECTORY: (Check.LISTEN,),
        Cause.ADDRESS_NOT_LOCAL: (Check.LISTEN, Check.GUEST),
        Cause.NOT_PASSED: (Check.LISTEN,),
        Cause.BUSY: (Check.DIAL,),
        Cause.WRONG_ANSWER: (Check.DIAL,),
        Cause.UNAVAILABLE: (Check.PYTHON, Check.HYPERV, Check.GUEST, Check.HV_SOCK, Check.VSOCK),
        Cause.UNKNOWN: (Check.CONNECT_MODE, Check.DIAL),
    }
)
"""The checks that tell more about why a dial or a listen failed, the most telling first."""
