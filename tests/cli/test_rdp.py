"""The .rdp file of a forward: its bytes, its address, and the forwards that have none."""

from pathlib import Path

import pytest

from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from hvbridge.cli.rdp import rdp

CONFIG = """
[[forward]]
name = "win-box-rdp"
listen = "tcp://127.0.0.1:3390"
connect = "hyperv://win-box/b1d00d3d-3c6e-4f2b-9a54-d5f3a0c7e81b"

[[forward]]
name = "everywhere"
listen = "tcp://0.0.0.0:3391"
connect = "hyperv://win-box/3389"
expose = true

[[forward]]
name = "six"
listen = "tcp://[::]:3391"
connect = "hyperv://win-box/3389"
expose = true

[[forward]]
name = "any-port"
listen = "tcp://127.0.0.1:0"
connect = "hyperv://win-box/3389"

[[forward]]
name = "inward"
listen = "hyperv://children/3389"
connect = "tcp://127.0.0.1:3389"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, with the directory for files as the current one."""
    path = tmp_path / "hvbridge.toml"
    path.write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def test_file_is_as_mstsc_writes_it(config: Path) -> None:
    """The file is UTF-16 with a mark and Windows' ends of lines, and asks for credentials without a gateway."""
    assert rdp("win-box-rdp", config, output=None) == EXIT_OK
    data = Path("win-box-rdp.rdp").read_bytes()
    assert data.startswith(b"\xff\xfe")
    assert data.decode("utf-16") == (
        "full address:s:127.0.0.1:3390\r\n"
        "prompt for credentials:i:1\r\n"
        "authentication level:i:2\r\n"
        "gatewayprofileusagemethod:i:1\r\n"
        "gatewayusagemethod:i:0\r\n"
        "autoreconnection enabled:i:1\r\n"
    )


@pytest.mark.parametrize(("name", "address"), [("everywhere", "127.0.0.1:3391"), ("six", "[::1]:3391")])
def test_a_listener_on_all_addresses_is_reached_here(name: str, address: str, config: Path) -> None:
    """The client connects to this machine where the forward listens on every address."""
    assert rdp(name, config, output=Path("x")) == EXIT_OK
    assert Path("x").read_bytes().decode("utf-16").startswith(f"full address:s:{address}\r\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("win-box-rpd", 'there is no forward named "win-box-rpd"; did you mean win-box-rdp?'),
        ("zzz", "the forwards are win-box-rdp, everywhere, six, any-port, inward"),
        ("any-port", "the port of any-port changes at each start"),
        ("inward", "inward listens on hyperv://children/xrdp"),
    ],
)
def test_forwards_without_a_file(
    name: str, told: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forward that no Remote Desktop client could open is told of, and no file is made."""
    assert rdp(name, config, output=None) == EXIT_USAGE
    assert told in capsys.readouterr().err
    assert list(config.parent.iterdir()) == [config]


def test_a_file_is_never_replaced(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there may hold the user's settings, and stays."""
    Path("mine.rdp").write_text("mine")
    assert rdp("win-box-rdp", config, output=Path("mine.rdp")) == EXIT_FAILURE
    assert "mine.rdp already exists" in capsys.readouterr().err
    assert Path("mine.rdp").read_text() == "mine"


def test_a_place_where_nothing_can_be_written(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure to write is told in a sentence."""
    assert rdp("win-box-rdp", config, output=Path("no") / "where.rdp") == EXIT_FAILURE
    assert "cannot write" in capsys.readouterr().err
