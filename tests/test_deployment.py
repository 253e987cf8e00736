"""What comes with hvbridge to run it as a service: units of systemd, a container recipe, and a pod with a sidecar."""

import configparser
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from hvbridge.address.endpoint import parse_endpoint
from hvbridge.cli.app import app
from hvbridge.config import Config, Machine, load_config

CONFIGS = Path(__file__).parent.parent / "configs"
UNITS = ("hvbridge.service", "hvbridge.socket")
EXECUTABLE = "/opt/hvbridge/bin/hvbridge"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here (package systemd)"
)


def text_of(name: str) -> str:
    return (CONFIGS / name).read_text(encoding="utf-8")


def unit(name: str) -> configparser.RawConfigParser:
    """The settings of a unit; of a repeated one, the last."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text_of(name))
    return parser


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_COLORS": "0"},
        timeout=60,
        check=False,
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A directory with the units, whose program is one that this machine has."""
    for name in UNITS:
        (tmp_path / name).write_text(text_of(name).replace(EXECUTABLE, sys.executable), encoding="utf-8")
    return tmp_path


@needs_systemd
def test_systemd_understands_every_setting(units: Path) -> None:
    """systemd finds nothing to remark, and does find a setting that is misspelt."""
    done = analyze("verify", "--man=no", *(units / name for name in UNITS))
    assert (done.returncode, done.stderr) == (0, "")
    service = units / "hvbridge.service"
    service.write_text(service.read_text().replace("ProtectClock=", "ProtectClocks="), encoding="utf-8")
    assert "Unknown key" in analyze("verify", "--man=no", service).stderr


@needs_systemd
def test_the_service_is_hardened(units: Path) -> None:
    """systemd rates its exposure 1.1 of 10; what is left is the network, which is its job."""
    done = analyze("security", "--offline=true", "--threshold=12", units / "hvbridge.service")
    assert done.returncode == 0, done.stdout


def test_the_units_belong_together() -> None:
    """systemd is told what hvbridge does: it notifies, reloads at SIGHUP, and has time for its grace."""
    service = unit("hvbridge.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 10  # the default of --grace
    assert set(service["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_VSOCK"}
    program, *arguments = service["ExecStart"].split()
    assert program == EXECUTABLE
    assert_runs(arguments)
    assert parse_endpoint(f"systemd://{unit('hvbridge.socket')['Socket']['FileDescriptorName']}")


def assert_runs(arguments: list[str]) -> None:
    """`hvbridge run` has these options."""
    command, *rest = arguments
    assert command == "run"
    group = typer.main.get_command(app)
    known = {option for parameter in group.commands["run"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {argument for argument in rest if argument.startswith("--")} <= known


# Containers.


class Admin(http.server.BaseHTTPRequestHandler):
    """Is alive, and not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[int]:
    """The port of an admin endpoint."""
    with http.server.HTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def probes(name: str) -> list[list[str]]:
    """The commands of a file by which it asks the admin endpoint."""
    return [
        json.loads(found) for found in re.findall(r'\[\s*"python", .*\]', text_of(name).replace("\\\n", ""))
    ]


@pytest.mark.parametrize(("name", "count"), [("Containerfile", 1), ("kubernetes-sidecar.yaml", 3)])
def test_probes_tell_what_the_admin_endpoint_says(name: str, count: int, admin: int) -> None:
    """A probe succeeds where the endpoint says 200, and fails where it says 503 or where nobody answers."""
    found = probes(name)
    assert len(found) == count
    for program, flags, script in found:
        assert program == "python"
        asked = subprocess.run([sys.executable, flags, script.replace("9180", str(admin))], check=False)
        assert asked.returncode == (0 if "/livez" in script else 1)
        dead = [sys.executable, flags, script.replace("9180", "1")]
        assert subprocess.run(dead, check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_the_image_runs_hvbridge() -> None:
    """What the image runs is a command line of hvbridge, as a user that is not root."""
    recipe = text_of("Containerfile")
    (command,) = re.findall(r"^CMD (\[.*\])$", recipe, re.MULTILINE)
    assert_runs(json.loads(command))
    (user,) = re.findall(r"^USER (\d+):", recipe, re.MULTILINE)
    assert int(user) > 0


def sidecar_config(directory: Path) -> Config:
    """The config that the manifest has for its sidecar."""
    (block,) = re.findall(r"  hvbridge\.toml: \|\n((?:    .*\n|\n)+)", text_of("kubernetes-sidecar.yaml"))
    file = directory / "hvbridge.toml"
    file.write_text(textwrap.dedent(block), encoding="utf-8")
    return load_config(file, environ={}, machine_of=lambda _: Machine())


def test_the_sidecar_has_a_good_config(tmp_path: Path) -> None:
    """The config has no fault, its admin endpoint is where the probes ask, and its arguments are hvbridge's."""
    config = sidecar_config(tmp_path)
    assert config.admin is not None
    assert str(config.admin.listen) == "tcp://127.0.0.1:9180"
    (arguments,) = re.findall(r"^ +args: (\[.*\])$", text_of("kubernetes-sidecar.yaml"), re.MULTILINE)
    assert_runs(json.loads(arguments))


def test_the_manifest_is_valid(tmp_path: Path) -> None:
    """The manifest is YAML with the two objects; its fields are checked against Kubernetes' schemas where they are."""
    yaml = pytest.importorskip("yaml", reason="no PyYAML here")
    schemas = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate here (extra ci)")
    objects = list(yaml.safe_load_all(text_of("kubernetes-sidecar.yaml")))
    assert [found["kind"] for found in objects] == ["ConfigMap", "Deployment"]
    for found in objects:
        schemas.validate(found, schemas.latest_version(), strict=True)
