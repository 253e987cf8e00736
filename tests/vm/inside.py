"""What runs inside the kernels beside the tests: sshd and the bridges of both sides. As a program: a guest.

Owns: the two configs, and the life of these processes. Refuses: judging what they do.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

CONNECT_CIDS = {"loopback": 1, "pair": 3}
"""For each lane, the CID at which the host's side finds the guest's."""

SHARED = Path("/run/shared")
SSH, SSH_HYPERV = 2022, 2023
"""TCP ports on the host that lead to the guest's sshd, over two kinds of endpoints."""
THERE, BACK = 2001, 2002
"""TCP ports on the host: what connects to the first comes back, by way of the guest, to the second."""
CLOSED = 2003
"""A TCP port on the host that leads to a vsock port where nobody listens."""
PATIENCE = 30.0
"""Seconds for anything here to start, or to take note; the machine may be busy."""

_SSHD = 2200
_SSHD_CONFIG = f"""\
ListenAddress 127.0.0.1:{_SSHD}
HostKey {SHARED}/host_key
AuthorizedKeysFile {SHARED}/user_key.pub
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""
_GUEST = f"""\
[[forward]]
name = "ssh"
listen = "vsock://any:22"
connect = "tcp://127.0.0.1:{_SSHD}"

[[forward]]
name = "ssh-hyperv"
listen = "hyperv://any/10022"
connect = "tcp://127.0.0.1:{_SSHD}"

[[forward]]
name = "there"
listen = "vsock://any:1001"
connect = "hyperv://parent/1002"
"""
_HOST = f"""\
[[forward]]
name = "ssh"
listen = "tcp://127.0.0.1:{SSH}"
connect = "vsock://{{cid}}:22"

[[forward]]
name = "ssh-hyperv"
listen = "tcp://127.0.0.1:{SSH_HYPERV}"
connect = "{{hyperv}}"

[[forward]]
name = "there"
listen = "tcp://127.0.0.1:{THERE}"
connect = "vsock://{{cid}}:1001"

[[forward]]
name = "back"
listen = "vsock://any:1002"
connect = "tcp://127.0.0.1:{BACK}"

[[forward]]
name = "closed"
listen = "tcp://127.0.0.1:{CLOSED}"
connect = "vsock://{{cid}}:9"
"""


class Bridge:
    """A running `hvbridge run`, and what it logs."""

    def __init__(self, log: Path) -> None:
        self._log = log.open()
        self._part = ""
        self._closed: list[dict[str, Any]] = []

    async def closing_record(self, forward: str) -> dict[str, Any]:
        """Wait for the earliest closing record of ``forward`` that nobody has been given."""
        with trio.fail_after(PATIENCE):
            while True:
                while (record := self.next()) is not None:
                    if record["event"] == "connection closed":
                        self._closed.append(record)
                for record in self._closed:
                    if record["forward"] == forward:
                        self._closed.remove(record)
                        return record
                await trio.sleep(0.02)

    def next(self) -> dict[str, Any] | None:
        """Return the next line of the log, once it is whole."""
        self._part += self._log.readline()
        if not self._part.endswith("\n"):
            return None
        line, self._part = self._part, ""
        assert line.startswith("{"), line + self._log.read()  # it ended with an error
        record: dict[str, Any] = json.loads(line)
        return record

    def close(self) -> None:
        """Read no more."""
        self._log.close()


@contextmanager
def guest_side() -> Iterator[None]:
    """Run sshd and the guest's bridge."""
    config = Path("/run/sshd_config")
    config.write_text(_SSHD_CONFIG)
    with _process("/usr/sbin/sshd", "-D", "-e", "-f", str(config)), _bridge("guest", _GUEST):
        yield


@contextmanager
def host_side(lane: str) -> Iterator[Bridge]:
    """Run the host's bridge."""
    cid = CONNECT_CIDS[lane]
    hyperv = "hyperv://loopback/10022" if lane == "loopback" else f"vsock://{cid}:10022"
    with _bridge("host", _HOST.format(cid=cid, hyperv=hyperv)) as bridge:
        yield bridge


@contextmanager
def _bridge(name: str, text: str) -> Iterator[Bridge]:
    config, log = Path(f"/run/{name}.toml"), Path(f"/run/{name}.log")
    config.write_text(text)
    with (
        log.open("w") as stderr,
        _process(
            *(sys.executable, "-m", "hvbridge", "run", str(config), "--log-format", "json"), stderr=stderr
        ) as process,
    ):
        bridge = Bridge(log)
        deadline = time.monotonic() + PATIENCE
        while (record := bridge.next()) is None or record["event"] != "ready":
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield bridge
        bridge.close()


@contextmanager
def _process(*command: str, stderr: Any = None) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stderr=stderr)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


if __name__ == "__main__":
    with guest_side():
        time.sleep(3600)  # the machine is switched off from outside
