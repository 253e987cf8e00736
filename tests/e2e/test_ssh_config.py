"""`ssh-config` and OpenSSH: what was installed is what ssh finds, and leads into the VM."""

import getpass
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .support import VM, Place, environment, hvbridge, run
from .test_ssh import missing, sshd

ALONE = ("unshare", "--map-root-user", "--mount")
"""Runs a program with mounts of its own: ssh looks for ~/.ssh/config where /etc/passwd says, whatever HOME says."""


def can_be_alone() -> bool:
    return bool(shutil.which("unshare")) and run(*ALONE, "true").returncode == 0


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux'"),
    pytest.mark.skipif(bool(missing), reason=f"NOT TESTED: no ssh session, for lack of {', '.join(missing)}"),
]


@dataclass(frozen=True)
class Account:
    """A user of ssh with a home directory of the test's own."""

    home: Path
    config: Path
    """A config of hvbridge, with two forwards for ssh."""
    before: bytes
    """The user's own ~/.ssh/config."""

    def ssh(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh, for which this account's home is the user's."""
        script = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
        words = ("sh", "-c", script, "sh", self.home / "passwd", "ssh", *arguments)
        return run(*ALONE, *words, environ=self._environment)

    def settings(self, host: str) -> dict[str, str]:
        """Return ssh's settings for ``host``."""
        done = self.ssh("-G", host)
        assert done.returncode == 0, done.stderr.decode()
        return dict(line.split(" ", 1) for line in done.stdout.decode().splitlines() if " " in line)

    def hvbridge(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        """Run hvbridge as this account."""
        return hvbridge(*arguments, environ=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return environment(HOME=str(self.home))


@pytest.fixture
def account(place: Place) -> Iterator[Account]:
    """Give an account for which an sshd listens in the VM, behind a guest bridge."""
    if not can_be_alone():
        pytest.skip("NOT TESTED: no user and mount namespaces here")
    home = place.directory / "home"
    (home / ".ssh").mkdir(parents=True)
    for key in ("host", "client"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key).check_returncode()
    (home / "known_hosts").write_text(f"vm-ssh {(home / 'host.pub').read_text()}")
    before = (
        f"User {getpass.getuser()}\n"
        f'IdentityFile "{home}/client"\n'
        f'UserKnownHostsFile "{home}/known_hosts"\n'
        f"BatchMode yes\n"
        f"LogLevel ERROR\n"
        f"Host vm-ssh\n"
        f"    ServerAliveInterval 42\n"
    ).encode()
    (home / ".ssh" / "config").write_bytes(before)
    (home / "passwd").write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
    with sshd(home) as port:
        place.bridge(
            {"name": "ssh", "listen": "hyperv://parent/ssh", "connect": f"tcp://127.0.0.1:{port}"},
            partition=VM,
        )
        config = place.config(
            {"name": "vm-ssh", "listen": "127.0.0.1:2222", "connect": f"hyperv://{VM}/ssh"},
            {
                "name": "slow",
                "listen": "127.0.0.1:2223",
                "connect": f"hyperv://{VM}/22",
                "dial_timeout": "30s",
            },
            {"name": "web", "listen": "127.0.0.1:8080", "connect": f"hyperv://{VM}/80"},
        )
        yield Account(home, config, before)


def test_installed_hosts_are_found_by_ssh(account: Account) -> None:
    """Each forward for ssh is a host whose settings are the user's but for ours, and leads into the VM."""
    done = account.hvbridge("ssh-config", account.config, "--install")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    ours, slow, web = map(account.settings, ("vm-ssh", "slow", "web"))
    assert re.search(rf" connect hyperv://{VM}/ssh$", ours["proxycommand"])
    assert (ours["hostkeyalias"], ours["serveraliveinterval"], ours["user"]) == (
        "vm-ssh",
        "42",
        getpass.getuser(),
    )
    assert slow["proxycommand"].endswith(f" connect hyperv://{VM}/ssh --dial-timeout 30s")
    assert "proxycommand" not in web
    done = account.ssh("vm-ssh", "echo $((6 * 7)); exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"42\n", b"")


def test_uninstalled_again(account: Account) -> None:
    """After --uninstall the user's config is what it was, and ssh has none of the hosts."""
    account.hvbridge("ssh-config", account.config, "--install")
    assert "proxycommand" in account.settings("vm-ssh")
    done = account.hvbridge("ssh-config", "--uninstall")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert "proxycommand" not in account.settings("vm-ssh")
    directory = account.home / ".ssh"
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"config": account.before}


def test_printed_hosts_are_a_config(account: Account) -> None:
    """What is printed can be saved anywhere and given to ssh."""
    printed = account.hvbridge("ssh-config", account.config)
    assert printed.returncode == 0
    path = account.home / "printed"
    path.write_bytes(printed.stdout)
    done = run("ssh", "-F", path, "-G", "vm-ssh")
    assert f"connect hyperv://{VM}/ssh" in done.stdout.decode()
    assert not (account.home / ".ssh" / "hvbridge.conf").exists()
