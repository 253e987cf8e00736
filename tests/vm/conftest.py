"""Runs the tests marked `vm` where AF_VSOCK is real: inside kernels of their own, never on the machine itself.

Outside, the first test of a lane boots the lane's kernels, and pytest runs inside with all the lane's tests; their
reports come out through a shared directory, and are given as the machine's own. So each test is selected,
counted and shown as any other.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, chdir
from pathlib import Path

import pytest

from tests.vm import uml
from tests.vm.inside import CONNECT_CIDS

_INSIDE = os.environ.get("HVBRIDGE_VM")
_REPORTS = "reports"
_TIMEOUT = 150.0
"""Seconds for a lane, which takes about 30: a fault in a kernel is silence, not an error."""
_COMMON = ("vsock", "vmw_vsock_virtio_transport_common")

Reports = dict[str, list[pytest.TestReport]]
_LANES = pytest.StashKey[dict[str, tuple[Reports, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker; inside, begin to report."""
    config.addinivalue_line("markers", "vm(lane): runs inside the kernels of a lane, loopback or pair")
    if _INSIDE:
        config.pluginmanager.register(_Reporter(config, Path(_INSIDE, _REPORTS)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside, run the item's whole lane, once, and give the reports of the item."""
    if _INSIDE or not (lane := _lane(item)):
        return None
    if reason := uml.lack():
        item.add_marker(pytest.mark.skip(reason=reason))
        return None
    lanes = item.session.stash.setdefault(_LANES, {})
    if lane not in lanes:
        lanes[lane] = _run(lane, item.session)
    reports, console = lanes[lane]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if item.nodeid not in reports:
        reports[item.nodeid] = [_lost(item, console)]
        lanes[lane] = reports, "see the first test of this lane that was lost"
    for report in reports[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


class _Reporter:
    """Writes each report as a line of JSON."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file = path.open("w")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        line = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        print(json.dumps(line), file=self._file, flush=True)
        os.fsync(self._file.fileno())  # the kernel may be killed


def _lane(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("vm")
    return marker.args[0] if marker else None


def _run(lane: str, session: pytest.Session) -> tuple[Reports, str]:
    """Run the lane's tests inside; return their reports, and what the kernels said."""
    tests = [item.nodeid for item in session.items if _lane(item) == lane]
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "--tb=short"),
        *("--basetemp=/run/tmp/pytest", f"--rootdir={session.config.rootpath}", *tests),
    ]
    # The shared directory must be where nothing is mounted inside, and its path short: there are sockets in it.
    with (
        tempfile.TemporaryDirectory(prefix="hvbridge-vm-", dir="/var/tmp") as name,
        chdir(session.config.rootpath),
        ExitStack() as stack,
    ):
        shared = Path(name)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", shared / key], check=True)
        process = _BOOT[lane](stack, shared, command)
        deadline = time.monotonic() + _TIMEOUT
        try:
            process.wait(timeout=deadline - time.monotonic())
            end = ""
        except subprocess.TimeoutExpired:
            end = f"killed after {_TIMEOUT:g} s\n"
        stack.close()
        consoles = [
            f"--- {path.name}\n{path.read_text(errors='replace')}"
            for path in sorted(shared.glob("*.console"))
        ]
        return _read(shared / _REPORTS, session.config), "".join(consoles) + end


def _loopback(stack: ExitStack, shared: Path, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return stack.enter_context(uml.kernel("loopback", shared, [*_COMMON, "vsock_loopback"], command))


def _pair(stack: ExitStack, shared: Path, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """The host, where the tests run, and its guest, by the CIDs that Hyper-V gives them."""
    modules = [*_COMMON, "vmw_vsock_virtio_transport"]
    sockets = {"host": (2, shared / "host.sock"), "guest": (CONNECT_CIDS["pair"], shared / "guest.sock")}
    switch = subprocess.Popen(
        [sys.executable, uml.HERE / "vsock_switch.py", *(f"{cid}={path}" for cid, path in sockets.values())],
        stdout=subprocess.PIPE,
    )
    stack.callback(_end, switch)
    assert switch.stdout is not None
    assert switch.stdout.readline() == b"ready\n"
    guest = [sys.executable, str(uml.HERE / "inside.py")]
    stack.enter_context(uml.kernel("guest", shared, modules, guest, sockets["guest"][1]))
    return stack.enter_context(uml.kernel("host", shared, modules, command, sockets["host"][1]))


_BOOT: dict[str, Callable[[ExitStack, Path, Sequence[str]], "subprocess.Popen[bytes]"]] = {
    "loopback": _loopback,
    "pair": _pair,
}


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def _read(path: Path, config: pytest.Config) -> Reports:
    reports: Reports = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
        reports.setdefault(report.nodeid, []).append(report)
    return reports


def _lost(item: pytest.Item, console: str) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid, item.location, {}, "failed", f"no report came out of the kernel\n{console}", "call"
    )
