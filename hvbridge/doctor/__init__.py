"""Diagnosis of a machine and a config: the checks, their findings, and which checks explain which cause.

Changes nothing. All facts about the machine come through `probe.Machine`, so that facts recorded on one machine can be
judged on another. Parsers rely on numbers, ids and positions, because Windows programs print translated text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hvbridge.transport.errors import Cause


class State(StrEnum):
    """The result of a check; the value is part of the JSON output."""

    OK = "ok"
    FAILED = "failed"
    DOUBTFUL = "doubtful"
    """It may be wrong, or could not be determined."""
    NOT_APPLICABLE = "not applicable"


class Check(StrEnum):
    """A check; the value is its name in the output, in JSON and in the documentation."""

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
    """What a check found, and what to do about it if something is wrong."""

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
        Cause.EXPOSED: (Check.LISTEN,),
        Cause.NOT_PASSED: (Check.LISTEN,),
        Cause.BUSY: (Check.DIAL,),
        Cause.WRONG_ANSWER: (Check.DIAL,),
        Cause.UNAVAILABLE: (Check.PYTHON, Check.HYPERV, Check.GUEST, Check.HV_SOCK, Check.VSOCK),
        Cause.UNKNOWN: (Check.CONNECT_MODE, Check.DIAL),
    }
)
"""The checks that help explain why a dial or a listen failed, the most useful first."""
