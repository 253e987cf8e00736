"""OpenSSH through the whole way: sshd behind a guest bridge, ssh in front of a host bridge or on `connect`."""

import getpass
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from .support import MODULE, PATIENCE, ROOT, VM, Bridge, Place, environment, random_bytes, run, wait_until

SSHD = Path("/usr/sbin/sshd")
NEEDED = ("ssh", "ssh-keygen", "scp", "sftp", "rsync")
BULK = 50_000_000
"""Bytes."""

missing = [name for name in NEEDED if shutil.which(name) is None] + [str(SSHD)] * (not SSHD.exists())
pytestmark = [
    pytest.mark.skipif(
        sys.platform == "win32", reason="the sshd that it starts, and its terminal, are POSIX"
    ),
    pytest.mark.skipif(
        bool(missing),
        reason=f"NOT TESTED: no ssh session, for lack of {', '.join(missing)} (.ci/run installs them)",
    ),
]


@dataclass(frozen=True)
class Vm:
    """An account in the VM, which is the account that runs the tests, as ssh reaches it in two ways."""

    config: Path
    """The ssh_config(5): host ``vm`` goes through the host bridge, ``vm-proxied`` through ProxyCommand."""
    files: Path
    """A directory for files, the same inside and outside."""
    host: Bridge
    guest: Bridge

    def command(self, program: str, *arguments: object) -> list[str]:
        """Return a command line of an OpenSSH program."""
        return [program, "-F", str(self.config), *map(str, arguments)]

    def ssh(self, command: str, send: bytes = b"", host: str = "vm") -> subprocess.CompletedProcess[bytes]:
        """Run ``command`` in the VM."""
        return run(*self.command("ssh", host, command), send=send)


@pytest.fixture(scope="module")
def vm(shared_place: Place) -> Iterator[Vm]:
    """Give a VM with an sshd, behind a guest bridge and a host bridge."""
    home = shared_place.directory / "ssh"
    home.mkdir()
    for key in ("host", "client"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key).check_returncode()
    with sshd(home) as port:
        guest = shared_place.bridge(
            {"name": "ssh", "listen": "hyperv://parent/ssh", "connect": f"tcp://127.0.0.1:{port}"},
            partition=VM,
        )
        host = shared_place.bridge(
            {"name": "ssh", "listen": "tcp://127.0.0.1:0", "connect": f"hyperv://{VM}/ssh"}
        )
        config = home / "ssh_config"
        emulator = shared_place.directory / "vm"
        config.write_text(
            f"Host vm\n"
            f"  HostName 127.0.0.1\n"
            f"  Port {host.port('ssh')}\n"
            f"Host vm-proxied\n"
            f"  ProxyCommand env HVBRIDGE_EMULATOR={emulator} {' '.join(MODULE)} connect hyperv://{VM}/ssh\n"
            f"Host *\n"
            f"  User {getpass.getuser()}\n"
            f"  HostKeyAlias vm\n"
            f"  IdentityFile {home}/client\n"
            f"  IdentitiesOnly yes\n"
            f"  BatchMode yes\n"
            f"  LogLevel ERROR\n"
            f"  UserKnownHostsFile {home}/known_hosts\n"
        )
        (home / "known_hosts").write_text(f"vm {(home / 'host.pub').read_text()}")
        files = home / "files"
        files.mkdir()
        (files / "bulk").write_bytes(random_bytes(BULK))
        yield Vm(config, files, host, guest)


@contextmanager
def sshd(home: Path) -> Iterator[int]:
    """Run sshd on a port of the system's choice while the block lasts; give the port."""
    if sys.platform == "win32":
        raise NotImplementedError
    separation = Path("/run/sshd")
    made = os.getuid() == 0 and not separation.exists()
    if made:  # root's sshd will not start without it
        separation.mkdir(mode=0o755)
    port = free_port()
    config = home / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f"HostKey {home}/host\n"
        f"AuthorizedKeysFile {home}/client.pub\n"
        f"PidFile none\n"
        f"UsePAM no\n"
        f"StrictModes no\n"
        f"PasswordAuthentication no\n"
        f"MaxStartups 100\n"
        f"Subsystem sftp internal-sftp\n"
    )
    log = home / "sshd.log"
    server = subprocess.Popen([SSHD, "-D", "-f", config, "-E", log])
    try:
        wait_until(lambda: "Server listening" in (log.read_text() if log.exists() else ""), "sshd listens")
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE)
        if made:
            with suppress(OSError):
                separation.rmdir()


def free_port() -> int:
    """Return a port that was free a moment ago; sshd cannot be told to pick one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("host", ["vm", "vm-proxied"])
def test_command(host: str, vm: Vm) -> None:
    """A command's input, both outputs and exit code pass; nothing is added to its errors."""
    done = vm.ssh("tr a-z A-Z; echo no >&2; exit 7", send=b"through the bridge\0", host=host)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"THROUGH THE BRIDGE\0", b"no\n")


@pytest.mark.parametrize("host", ["vm", "vm-proxied"])
def test_interactive_terminal(host: str, vm: Vm) -> None:
    """A shell on a terminal echoes, has the terminal's size, is told of a new one, and ends with its exit code."""
    if sys.platform == "win32":
        raise NotImplementedError
    import grp

    ours, theirs = os.openpty()
    if os.getuid() != 0 and os.fstat(theirs).st_gid != grp.getgrnam("tty").gr_gid:
        pytest.skip(
            "NOT TESTED: sshd without root cannot give a terminal to group tty, and devpts here does not"
        )
    set_size(theirs, rows=37, columns=101)
    command = vm.command("ssh", "-tt", host, "exec sh -i")
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment()
    ) as ssh:
        os.close(theirs)
        terminal = Terminal(ours)
        try:
            terminal.type("echo $((6*7))-answers\n")
            terminal.expect("echo $((6*7))-answers")
            terminal.expect("42-answers")
            terminal.type("stty size\n")
            terminal.expect("37 101")
            set_size(ours, rows=24, columns=80)
            ssh.send_signal(signal.SIGWINCH)
            terminal.type("until [ \"$(stty size)\" = '24 80' ]; do :; done; echo re''sized\n")
            terminal.expect("resized")
            terminal.type("exit 5\n")
            assert ssh.wait(PATIENCE) == 5
        finally:
            ssh.kill()
            os.close(ours)


class Terminal:
    """The user's side of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = ""

    def type(self, text: str) -> None:
        """Type ``text``."""
        os.write(self._descriptor, text.encode())

    def expect(self, text: str) -> None:
        """Read until ``text`` is shown, and forget what came up to it."""
        os.set_blocking(self._descriptor, False)

        def shown() -> bool:
            with suppress(BlockingIOError):
                self._shown += os.read(self._descriptor, 65536).decode()
            return text in self._shown

        wait_until(shown, f"the terminal shows {text!r}")
        self._shown = self._shown.partition(text)[2]


def set_size(descriptor: int, *, rows: int, columns: int) -> None:
    """Set the size of a terminal."""
    subprocess.run(["stty", "rows", str(rows), "cols", str(columns)], stdin=descriptor, check=True)


@pytest.mark.parametrize("program", ["sftp", "scp"])
def test_file_transfer(program: str, vm: Vm, tmp_path: Path) -> None:
    """50 MB arrive whole in the VM and come back whole."""
    bulk, inside, back = vm.files / "bulk", vm.files / f"{program}-inside", tmp_path / "back"
    if program == "sftp":
        batch = f"put {bulk} {inside}\nget {inside} {back}\n".encode()
        done = run(*vm.command("sftp", "-b", "-", "vm"), send=batch)
        assert done.returncode == 0, done.stderr.decode()
    else:
        for source, target in [(bulk, f"vm:{inside}"), (f"vm:{inside}", back)]:
            done = run(*vm.command("scp", "-q", source, target))
            assert (done.returncode, done.stderr) == (0, b"")
    assert inside.stat().st_size == BULK
    assert sha256(inside) == sha256(back) == sha256(bulk)


def test_bulk_through_proxy_command(vm: Vm, tmp_path: Path) -> None:
    """50 MB arrive whole in the VM and come back whole through `hvbridge connect`."""
    inside, back = vm.files / "proxied", tmp_path / "back"
    for source, target in [(vm.files / "bulk", f"vm-proxied:{inside}"), (f"vm-proxied:{inside}", back)]:
        done = run(*vm.command("scp", "-q", source, target))
        assert (done.returncode, done.stderr) == (0, b"")
    assert sha256(inside) == sha256(back) == sha256(vm.files / "bulk")


def test_twenty_sessions_at_once(vm: Vm) -> None:
    """Twenty sessions are open at once, and each hears its own answer and nobody else's."""
    sessions = [
        subprocess.Popen(
            vm.command("ssh", "vm", "echo open; read -r word; echo $word"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(20)
    ]
    try:
        for session in sessions:
            assert session.stdout is not None
            assert session.stdout.readline() == b"open\n"
        for number, session in enumerate(sessions):
            answer, _ = session.communicate(b"word-%d\n" % number, timeout=PATIENCE)
            assert (session.returncode, answer) == (0, b"word-%d\n" % number)
    finally:
        for session in sessions:
            session.kill()


def test_rsync_of_a_tree(vm: Vm, tmp_path: Path) -> None:
    """A tree arrives with contents, modes, times and links; a second run finds nothing to transfer."""
    tree, copy = tmp_path / "tree", vm.files / "copy"
    grow(tree)
    command = ["rsync", "-a", "--delete", "--itemize-changes", "-e", " ".join(vm.command("ssh"))]
    first = run(*command, f"{tree}/", f"vm:{copy}/")
    assert first.returncode == 0, first.stderr.decode()
    assert described(copy) == described(tree)
    assert run(*command, f"{tree}/", f"vm:{copy}/").stdout == b""
    (tree / "sub" / "new").write_text("new")
    (tree / "empty").unlink()
    changes = run(*command, f"{tree}/", f"vm:{copy}/").stdout.decode()
    assert re.findall(r"^(?:<f|\*d)\S* +(.*)$", changes, re.MULTILINE) == ["empty", "sub/new"]
    assert described(copy) == described(tree)


def grow(tree: Path) -> None:
    """Make a tree with all that a copy can get wrong."""
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "with space and ümlaut").write_text("text")
    (tree / "sub" / "bulk").write_bytes(random_bytes(3_000_000))
    (tree / "sub" / "script").write_text("#!/bin/sh\n")
    (tree / "sub" / "script").chmod(0o750)
    (tree / "sub" / "secret").write_text("secret")
    (tree / "sub" / "secret").chmod(0o400)
    (tree / "sub" / "link").symlink_to("../empty")
    (tree / "sub" / "dangling").symlink_to("nowhere")
    for number in range(200):
        (tree / "sub" / "deep" / f"{number}").write_text(str(number))


def described(tree: Path) -> dict[str, object]:
    """Say of each entry of a tree what a copy must keep."""

    def describe(path: Path) -> object:
        entry = path.lstat()
        if stat.S_ISLNK(entry.st_mode):
            return path.readlink()
        return entry.st_mode, path.is_file() and (int(entry.st_mtime), sha256(path))

    return {str(path.relative_to(tree)): describe(path) for path in tree.rglob("*")}


def test_port_forward_inside_ssh(vm: Vm) -> None:
    """A port that ssh forwards through its session carries HTTP to a server that only the VM reaches."""
    page = random_bytes(300_000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever, args=[0.02])
        thread.start()
        port = free_port()
        way = f"127.0.0.1:{port}:127.0.0.1:{web.server_port}"
        # It says when the forward is there: a command runs after the ports are bound.
        command = vm.command(
            "ssh", "-o", "ExitOnForwardFailure=yes", "-L", way, "vm", "echo there; read -r _"
        )
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as ssh:
            try:
                assert ssh.stdout is not None
                assert ssh.stdout.readline() == b"there\n"
                for _ in range(5):
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
                        assert answer.read() == page
            finally:
                ssh.kill()
                web.shutdown()
                thread.join(PATIENCE)


def test_each_session_is_accounted_for(vm: Vm) -> None:
    """A session leaves one record at the host and one at the guest, both ended cleanly, with the same bytes."""
    before = len(vm.host.records()), len(vm.guest.records())
    assert vm.ssh("head -c 1000000 /dev/zero").stdout == bytes(1_000_000)
    host, guest = (
        bridge.expect_records(count + 1)[-1]
        for bridge, count in zip((vm.host, vm.guest), before, strict=True)
    )
    for record in (host, guest):
        assert (record["forward"], record["reason"]) == ("ssh", "eof")
        assert record["upstream_to_client"] > 1_000_000
    assert host["upstream_to_client"] == guest["upstream_to_client"]
    assert host["client_to_upstream"] == guest["client_to_upstream"]
