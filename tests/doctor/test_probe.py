"""The doctor reads what the programs and files of a machine say, in more than one language, and judges it right.

The texts are in the forms that the programs of Windows, and Linux, print.
"""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trio

from hvbridge.address.endpoint import TcpEndpoint, UnixEndpoint, VsockEndpoint, parse_endpoint
from hvbridge.doctor import Check, State, linux, ports, windows
from hvbridge.doctor.checklist import Target, examine
from hvbridge.doctor.probe import Machine
from hvbridge.doctor.windows import Role
from hvbridge.hyperv.guid import HOST
from hvbridge.transport.network import Network, emulated_network

Answers = Mapping[str, tuple[int, bytes]]


def programs(answers: Answers) -> object:
    """Stand for the programs of a machine: the first whose name and first words match answers."""

    async def run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        line = " ".join(command)
        for start, (code, printed) in answers.items():
            if line.startswith(start):
                return subprocess.CompletedProcess(command, code, printed, b"")
        raise FileNotFoundError(2, "no such program")

    return run


def machine(platform: str, answers: Answers | None = None, root: Path = Path("/nowhere")) -> Machine:
    families = frozenset({"AF_HYPERV"} if platform == "win32" else {"AF_VSOCK"})
    return Machine(platform, "CPython 3.13.2", families, root, programs(answers or {}))  # type: ignore[arg-type]


# The Hyper-V role.

SC_ENGLISH = b"""\

SERVICE_NAME: vmms
        TYPE               : 10  WIN32_OWN_PROCESS
        STATE              : 4  RUNNING
                                (STOPPABLE, NOT_PAUSABLE, ACCEPTS_SHUTDOWN)
        WIN32_EXIT_CODE    : 0  (0x0)
        SERVICE_EXIT_CODE  : 0  (0x0)
        CHECKPOINT         : 0x0
        WAIT_HINT          : 0x0
"""
SC_SPANISH = """\

NOMBRE_SERVICIO: vmms
        TIPO               : 10  WIN32_OWN_PROCESS
        ESTADO             : 1  STOPPED
        CÓD_SALIDA_WIN32   : 0  (0x0)
        CÓD_SALIDA_SERVICIO: 0  (0x0)
        PUNTO_COMPROB.     : 0x0
        INDICACIÓN_INICIO  : 0x0
""".encode("cp850")
SC_MISSING = """\
[SC] EnumQueryServicesStatus:OpenService FEHLER 1060:

Der angegebene Dienst ist kein installierter Dienst.

""".encode("cp850")
SC_PLATFORM = SC_ENGLISH.replace(b"vmms", b"vmcompute").replace(b" 10  WIN32_OWN", b" 20  WIN32_SHARE")
REG_GUEST = b"""\

HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Virtual Machine\\Guest\\Parameters
    VirtualMachineName    REG_SZ    dev-box

"""
REG_MISSING = (1, b"")


@pytest.mark.parametrize(
    ("answers", "expected", "state"),
    [
        ({"sc.exe query vmms": (0, SC_ENGLISH)}, Role.HOST, State.OK),
        ({"sc.exe query vmms": (0, SC_SPANISH)}, Role.STOPPED_HOST, State.FAILED),
        ({"sc.exe query vmms": (1060, SC_MISSING), "reg.exe": (0, REG_GUEST)}, Role.GUEST, State.OK),
        (
            {"sc.exe query vmms": (0, SC_ENGLISH), "reg.exe": (0, REG_GUEST)},
            Role.HOST,
            State.OK,
        ),
        (
            {
                "sc.exe query vmms": (1060, SC_MISSING),
                "reg.exe": REG_MISSING,
                "sc.exe query vmcompute": (0, SC_PLATFORM),
            },
            Role.WSL_HOST,
            State.DOUBTFUL,
        ),
        ({"sc.exe": (1060, SC_MISSING), "reg.exe": REG_MISSING}, Role.NONE, State.FAILED),
        ({"sc.exe": (36, SC_MISSING), "reg.exe": REG_MISSING}, Role.NONE, State.FAILED),
        ({"sc.exe": (5, b"Access is denied."), "reg.exe": REG_MISSING}, Role.UNKNOWN, State.DOUBTFUL),
        ({}, Role.UNKNOWN, State.DOUBTFUL),
    ],
)
async def test_what_windows_is_to_hyperv(answers: Answers, expected: Role, state: State) -> None:
    """The state of vmms, or its absence, and the key of a guest tell a host, a guest, WSL2 alone, or neither."""
    found = await windows.role(machine("win32", answers))
    assert found is expected
    assert windows.check_hyperv(found).state is state


@pytest.mark.skipif(sys.platform != "win32", reason="there is no sc.exe elsewhere")
async def test_the_real_sc_is_read() -> None:
    """The service of the event log, which every Windows has, is seen to run."""
    printed = await Machine().printed_by("sc.exe", "query", "eventlog")
    assert windows.parse_service_state(printed) == 4


# The user's rights.

GROUPS_ENGLISH = b"""\

GROUP INFORMATION
-----------------

Group Name                             Type             SID          Attributes
====================================== ================ ============ ==================================================
Everyone                               Well-known group S-1-1-0      Mandatory group, Enabled by default, Enabled group
BUILTIN\\Administrators                 Alias            S-1-5-32-544 Group used for deny only
BUILTIN\\Hyper-V Administrators         Alias            S-1-5-32-578 Mandatory group, Enabled by default, Enabled group
BUILTIN\\Users                          Alias            S-1-5-32-545 Mandatory group, Enabled by default, Enabled group
NT AUTHORITY\\INTERACTIVE               Well-known group S-1-5-4      Mandatory group, Enabled by default, Enabled group
Mandatory Label\\Medium Mandatory Level Label            S-1-16-8192
"""
GROUPS_GERMAN = (
    '"Jeder","Bekannte Gruppe","S-1-1-0","Verbindliche Gruppe, Standardmäßig aktiviert, Aktivierte Gruppe"\r\n'
    '"VORDEFINIERT\\Administratoren","Alias","S-1-5-32-544","Gruppe, die nur zum Verweigern verwendet wird"\r\n'
    '"VORDEFINIERT\\Benutzer","Alias","S-1-5-32-545","Verbindliche Gruppe, Standardmäßig aktiviert"\r\n'
    '"Verbindliche Beschriftung\\Mittlere Verbindlichkeitsstufe","Bezeichnung","S-1-16-8192",""\r\n'
).encode("cp850")
GROUPS_GERMAN_MEMBER = GROUPS_GERMAN + (
    '"VORDEFINIERT\\Hyper-V-Administratoren","Alias","S-1-5-32-578","Verbindliche Gruppe"\r\n'.encode("cp850")
)
GROUPS_GERMAN_ELEVATED = GROUPS_GERMAN.replace(b"Mittlere", b"Hohe").replace(b"S-1-16-8192", b"S-1-16-12288")


@pytest.mark.parametrize(
    ("printed", "role", "state", "summary"),
    [
        (GROUPS_ENGLISH, Role.HOST, State.OK, "a member of Hyper-V Administrators"),
        (GROUPS_GERMAN, Role.HOST, State.FAILED, "neither a member of Hyper-V Administrators nor elevated"),
        (GROUPS_GERMAN_MEMBER, Role.STOPPED_HOST, State.OK, "a member of Hyper-V Administrators"),
        (GROUPS_GERMAN_ELEVATED, Role.HOST, State.OK, "elevated; hvbridge does not need elevation"),
        (GROUPS_GERMAN, Role.GUEST, State.NOT_APPLICABLE, "a guest needs no rights"),
        (b"", Role.HOST, State.DOUBTFUL, "whoami.exe did not report the user's groups"),
    ],
)
async def test_rights(printed: bytes, role: Role, state: State, summary: str) -> None:
    """The group and the elevation are found by their ids; an administrator who is not elevated is neither."""
    finding = await windows.check_rights(machine("win32", {"whoami.exe /groups": (0, printed)}), role)
    assert (finding.state, finding.summary) == (state, summary)


# WSL2.


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((0, "Ubuntu\r\ndocker-desktop\r\n".encode("utf-16-le")), State.DOUBTFUL),
        (
            (1, "Windows-Subsystem für Linux ist nicht installiert.\r\n".encode("utf-16-le")),
            State.NOT_APPLICABLE,
        ),
        ((0, b""), State.NOT_APPLICABLE),
    ],
)
async def test_wsl2_does_not_hear_wildcards(answer: tuple[int, bytes], state: State) -> None:
    """Where WSL has distributions, forwards that listen on a wildcard are named; elsewhere it does not matter."""
    finding = await windows.check_wsl2(machine("win32", {"wsl.exe --list --quiet": answer}), ["web", "db"])
    assert finding.state is state
    if state is State.DOUBTFUL:
        assert (
            finding.summary
            == "any and children do not accept connections from WSL2 (Ubuntu, docker-desktop): web, db"
        )


# Who has a port.

NETSTAT_GERMAN = """\

Aktive Verbindungen

  Proto  Lokale Adresse         Remoteadresse          Status           PID
  TCP    0.0.0.0:135            0.0.0.0:0              ABHÖREN         1012
  TCP    127.0.0.1:2222         127.0.0.1:50120        HERGESTELLT     4699
  TCP    127.0.0.1:2222         0.0.0.0:0              ABHÖREN         4711
  TCP    192.168.1.20:2222      0.0.0.0:0              ABHÖREN         4712
  TCP    127.0.0.1:2222         127.0.0.1:50123        HERGESTELLT     4711
  TCP    [::]:135               [::]:0                 ABHÖREN         1012
  TCP    [::1]:8080             [::]:0                 ABHÖREN         4
  TCP    [fe80::1c2b%12]:5000   [::]:0                 ABHÖREN         900
  UDP    0.0.0.0:2222           *:*                                    4713
""".encode("cp850")
TASKLIST = b'"python.exe","4711","N/A"\r\n'
TASKLIST_SERVICES = '"svchost.exe","1012","RpcEptMapper,RpcSs"\r\n'.encode("cp850")
TASKLIST_NOTHING = b"INFO: No tasks are running which match the specified criteria.\r\n"


@pytest.mark.parametrize(
    ("endpoint", "tasks", "expected"),
    [
        ("tcp://127.0.0.1:2222", TASKLIST, (4711, "python.exe", True)),
        ("tcp://127.0.0.1:135", TASKLIST_SERVICES, (1012, "svchost.exe: RpcEptMapper,RpcSs", False)),
        ("tcp://[::1]:8080", b'"System","4","N/A"\r\n', (4, "System", False)),
        ("tcp://[::1]:8080", TASKLIST_NOTHING, (4, "a process", False)),
        ("tcp://127.0.0.1:8080", TASKLIST, None),
    ],
)
async def test_who_has_a_port_on_windows(endpoint: str, tasks: bytes, expected: object) -> None:
    """The listener that is in the way is found by address and port, whatever the words for its state are."""
    answers = {"netstat.exe": (0, NETSTAT_GERMAN), "tasklist.exe": (0, tasks)}
    assert await ports.holder(machine("win32", answers), parse_endpoint(endpoint)) == expected


async def test_nobody_is_named_where_the_programs_are_missing() -> None:
    """Without netstat, or ss, no holder is made up."""
    assert await ports.holder(machine("win32"), TcpEndpoint("127.0.0.1", 2222)) is None
    assert await ports.holder(machine("linux"), VsockEndpoint(2, 22)) is None
    assert await ports.holder(machine("linux"), TcpEndpoint("127.0.0.1", 22)) is None


PROC_NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0FA9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21001 1 00000000b0b5e5d2
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18245 1 000000000e5f8ea2
   2: 0100007F:0FA9 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 21002 1 00000000b0b5e5d3
"""
PROC_NET_TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when \
retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 \
00000000     0        0 21003 1 00000000c1f0a1b2
"""
PROC_NET_UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
00000000a1b2c3d4: 00000002 00000000 00010000 0001 01 21004 /run/an app.sock
00000000a1b2c3d5: 00000003 00000000 00000000 0001 03 21005 /run/an app.sock
00000000a1b2c3d6: 00000002 00000000 00000000 0002 01 15873
"""


@pytest.mark.skipif(
    sys.byteorder != "little", reason="the addresses here are those of a little-endian machine"
)
def test_listening_sockets_of_proc() -> None:
    """Listening sockets are read from /proc/net, with their inodes; connections are passed over."""
    assert [*ports.parse_proc_tcp(PROC_NET_TCP), *ports.parse_proc_tcp(PROC_NET_TCP6)] == [
        (TcpEndpoint("127.0.0.1", 4009), 21001),
        (TcpEndpoint("0.0.0.0", 22), 18245),
        (TcpEndpoint("::1", 8080), 21003),
    ]
    assert list(ports.parse_proc_unix(PROC_NET_UNIX)) == [(UnixEndpoint("/run/an app.sock"), 21004)]


@pytest.mark.skipif(
    sys.platform == "win32", reason="a /proc has symbolic links, which take rights on Windows"
)
@pytest.mark.skipif(
    sys.byteorder != "little", reason="the addresses here are those of a little-endian machine"
)
@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://127.0.0.1:22", (812, "sshd", False)),
        ("tcp://127.0.0.1:4009", (900, "python3", True)),
        ("tcp://[::1]:22", None),
        ("unix:///run/an app.sock", (900, "python3", True)),
        ("tcp://[::1]:8080", None),  # a process of another user
    ],
)
async def test_who_has_a_port_on_linux(tmp_path: Path, endpoint: str, expected: object) -> None:
    """The inode of the listener leads to the process that has it open, and to its command line."""
    net = tmp_path / "proc" / "net"
    net.mkdir(parents=True)
    for name, text in {"tcp": PROC_NET_TCP, "tcp6": PROC_NET_TCP6, "unix": PROC_NET_UNIX}.items():
        (net / name).write_text(text)
    for pid, comm, command, inodes in (
        (812, "sshd", "sshd: /usr/sbin/sshd -D", [18245]),
        (900, "python3", "/opt/venv/bin/python3\0/opt/venv/bin/hvbridge\0run\0host.toml\0", [21001, 21004]),
        (901, "secret", "secret", []),
    ):
        process = tmp_path / "proc" / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "comm").write_text(f"{comm}\n")
        (process / "cmdline").write_text(command)
        for number, inode in enumerate(inodes, start=3):
            (process / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    assert await ports.holder(machine("linux", root=tmp_path), parse_endpoint(endpoint)) == expected


SS = b"""\
v_str LISTEN 0      0                *:22            *:*    users:(("systemd",pid=1,fd=63))
v_str LISTEN 0      0                *:5000          *:*    users:(("hvbridge",pid=77,fd=9))
v_str ESTAB  0      0       4294967295:22            2:1001 users:(("sshd",pid=80,fd=4))
"""


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("vsock://any:22", (1, "systemd", False)),
        ("hyperv://parent/5000", (77, "hvbridge", True)),
        ("vsock://any:1001", None),
    ],
)
async def test_who_has_a_vsock_port(endpoint: str, expected: object) -> None:
    """`ss` tells who listens on a vsock port, by which a Hyper-V service is known in a Linux guest."""
    assert await ports.holder(machine("linux", {"ss ": (0, SS)}), parse_endpoint(endpoint)) == expected


NETSH_SPANISH = """\

Intervalos de exclusión de puerto de protocolo tcp

Puerto de inicio    Puerto final
----------          --------
      1025        1124
      5357        5357
     25313       25412
     50000       50059     *

* - Exclusiones de puerto administradas.

""".encode("cp850")


@pytest.mark.parametrize(
    ("port", "kept"),
    [(1024, None), (1025, range(1025, 1125)), (25412, range(25313, 25413)), (50001, range(50000, 50060))],
)
async def test_ports_that_windows_keeps(port: int, kept: range | None) -> None:
    """A port is found in the ranges that netsh lists, also in an administrator's."""
    answers = {"netsh.exe interface ipv4 show excludedportrange tcp": (0, NETSH_SPANISH)}
    assert await ports.excluded_range(machine("win32", answers), port) == kept


# A Linux guest.


def linux_root(directory: Path, *paths: str) -> Path:
    """Make a file system that has ``paths``."""
    for path in paths:
        (directory / path).mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("paths", "modules", "state"),
    [
        ((), "", State.FAILED),
        (("sys/module/hv_sock",), "", State.OK),
        (("sys/bus/vmbus/drivers/hv_sock",), "", State.OK),  # built in, as in WSL2
        ((), "hv_sock 20480 1 - Live 0x0000000000000000\nvsock 61440 2 hv_sock, Live 0x0\n", State.OK),
        ((), "xhv_sock 20480 1 - Live 0x0\n", State.FAILED),
    ],
)
def test_hv_sock(tmp_path: Path, paths: Sequence[str], modules: str, state: State) -> None:
    """The module is found as one, as a driver of VMBus, and in /proc/modules."""
    root = linux_root(tmp_path, *paths)
    (root / "proc").mkdir()
    (root / "proc" / "modules").write_text(modules)
    assert linux.check_hv_sock(machine("linux", root=root)).state is state


@pytest.mark.parametrize(
    ("paths", "state"),
    [((), State.FAILED), (("dev/vsock",), State.OK), (("sys/module/vsock",), State.DOUBTFUL)],
)
def test_vsock(tmp_path: Path, paths: Sequence[str], state: State) -> None:
    """AF_VSOCK is there with its device; without the device, a module says that it may be."""
    assert linux.check_vsock(machine("linux", root=linux_root(tmp_path, *paths))).state is state


def test_python_without_vsock() -> None:
    """A Python that was built without AF_VSOCK is named before any device is looked for."""
    found = linux.check_vsock(Machine("linux", "CPython 3.13.2", frozenset()))
    assert (found.state, found.summary) == (State.FAILED, "CPython 3.13.2 was built without AF_VSOCK")


@pytest.mark.parametrize(
    ("cid", "guest", "state"),
    [
        (4294967295, True, State.OK),
        (3, True, State.DOUBTFUL),
        (3, False, State.OK),
        (4294967295, False, State.DOUBTFUL),
    ],
)
def test_cid(cid: int, guest: bool, state: State) -> None:
    """A guest of Hyper-V has the CID that stands for any, and no other machine should."""

    class WithCid(Machine):
        def local_cid(self) -> int:
            return cid

    finding = linux.check_cid(WithCid("linux"), guest)
    assert finding.state is state
    assert finding.summary.startswith(str(cid))


def test_cid_cannot_be_told() -> None:
    """Without /dev/vsock the CID is in doubt."""
    assert linux.check_cid(machine("linux"), guest=True).state is State.DOUBTFUL


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({"systemctl is-active sshd-vsock.socket": (0, b"active\n")}, State.OK),
        ({"systemctl": (3, b"inactive\n"), "ss ": (0, SS)}, State.OK),
        ({"systemctl": (4, b"inactive\n"), "ss ": (0, SS.replace(b"*:22 ", b"*:23 "))}, State.NOT_APPLICABLE),
        ({}, State.NOT_APPLICABLE),
    ],
)
async def test_sshd_on_vsock(answers: Answers, state: State) -> None:
    """systemd's own socket, or any listener on vsock 22, answers hyperv://VM/ssh."""
    assert (await linux.check_sshd(machine("linux", answers))).state is state


@pytest.mark.parametrize(
    ("effective", "state"),
    [
        ("0000000000000000", State.FAILED),
        ("0000000000000400", State.OK),
        ("000001fffffffbff", State.FAILED),  # all but this one
        ("000001ffffffffff", State.OK),
    ],
)
def test_low_ports(tmp_path: Path, effective: str, state: State) -> None:
    """CAP_NET_BIND_SERVICE is bit 10 of the effective capabilities."""
    status = tmp_path / "proc" / "self" / "status"
    status.parent.mkdir(parents=True)
    status.write_text(f"Name:\tpython3\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapAmb:\t0\n")
    assert linux.check_low_ports(machine("linux", root=tmp_path), ["ssh"]).state is state


# Whole machines.


async def test_a_linux_guest(tmp_path: Path) -> None:
    """A guest of Hyper-V without a config is asked for its modules, its device, its CID and its sshd."""
    root = linux_root(tmp_path, "sys/bus/vmbus/drivers/hv_sock", "dev/vsock")
    found = await examine(Target(hyperv_of(tmp_path), None), machine("linux", root=root))
    assert [finding.check for finding in found] == [
        Check.PYTHON,
        Check.GUEST,
        Check.HV_SOCK,
        Check.VSOCK,
        Check.CID,
        Check.SSHD,
    ]


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ({"AF_HYPERV"}, {Check.PYTHON: State.OK, Check.CONNECT_MODE: State.OK}),
        (set(), {Check.PYTHON: State.FAILED}),
    ],
)
async def test_a_windows_host(tmp_path: Path, families: set[str], expected: dict[Check, State]) -> None:
    """A Windows host without a config is asked for its role, its rights and its sockets."""
    answers = {"sc.exe": (0, SC_ENGLISH), "whoami.exe": (0, GROUPS_ENGLISH)}
    host = Machine("win32", "CPython 3.11.9", frozenset(families), run=programs(answers))  # type: ignore[arg-type]
    found = await examine(Target(hyperv_of(tmp_path), None), host)
    expected |= {Check.HYPERV: State.OK, Check.RIGHTS: State.OK}
    assert {finding.check: finding.state for finding in found} == expected


def hyperv_of(directory: Path) -> Network:
    """Hyper-V sockets of a host, for a machine that has none: the emulator carries them."""
    return emulated_network(directory / "vm", HOST, enforce_registration=False)


async def test_a_program_that_hangs_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """What does not answer in time is as good as missing."""

    async def run(command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        await trio.sleep_forever()

    hanging = Machine("win32", run=run)
    assert await hanging.printed_by("sc.exe", "query", "vmms") is None
    assert autojump_clock.current_time() < 60


def test_names_of_checks_are_short_and_plain() -> None:
    """Names stand in a column, in JSON and in headings, so they keep to one form."""
    assert [check for check in Check if not re.fullmatch("[a-z0-9_-]{2,12}", check)] == []
