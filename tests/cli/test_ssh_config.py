"""Which forwards become hosts of ssh, how their commands are quoted, and what is done to the user's ~/.ssh."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hvbridge.cli.ssh_config import (
    INCLUDED,
    hosts,
    install_in,
    is_for_ssh,
    proxy_command,
    uninstall_from,
)
from hvbridge.config import Config, Machine, load_config
from hvbridge.hyperv.guid import service_id_of_port
from hvbridge.hyperv.services import Service

VM = "11111111-1111-1111-1111-111111111111"
LINE = b"Include hvbridge.conf\n"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="modes and links of files are POSIX")


def config_of(directory: Path, *forwards: str) -> Config:
    file = directory / "config.toml"
    text = "\n".join(f"[[forward]]\nlisten = '127.0.0.1:{2200 + n}'\n{f}" for n, f in enumerate(forwards))
    file.write_text(text, encoding="utf-8")
    return load_config(file, environ={}, machine_of=lambda _: Machine())


@pytest.mark.parametrize(
    ("name", "connect", "expected"),
    [
        ("a", f"hyperv://{VM}/ssh", True),
        ("a", f"hyperv://{VM}/22", True),
        ("a", "hyperv://dev-box/ssh", True),
        ("a", "vsock://3:22", True),
        ("a", "tcp://192.0.2.1:22", True),
        ("dev-box-ssh", f"hyperv://{VM}/2222", True),
        ("SSH.dev", "tcp://192.0.2.1:2222", True),
        ("ssh", "unix:///run/sshd.sock", True),
        ("a", "unix:///run/sshd.sock", False),
        ("rdp", f"hyperv://{VM}/xrdp", False),
        ("sshd", f"hyperv://{VM}/2222", False),
    ],
)
def test_which_forwards_are_for_ssh(name: str, connect: str, expected: bool, tmp_path: Path) -> None:
    """A forward is for ssh when it leads to vsock or TCP port 22, or when a word of its name is ssh."""
    (forward,) = config_of(tmp_path, f"name = '{name}'\nconnect = '{connect}'").forwards
    assert is_for_ssh(forward) is expected


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each forward for ssh has a block of its name, with the settings of its dial that are not the usual ones."""
    monkeypatch.delenv("HVBRIDGE_EMULATOR", raising=False)
    monkeypatch.setattr("hvbridge.cli.ssh_config.program", lambda: ["hvbridge"])
    config = config_of(
        tmp_path,
        f"name = 'a-ssh'\nconnect = 'hyperv://{VM}/2222'\ndial_timeout = '30s'\nconnect_mode = 'thread'",
        f"name = 'web'\nconnect = 'hyperv://{VM}/80'",
        "name = 'b'\nconnect = 'hyperv://dev-box/ssh'",
    )
    quote = '"' if sys.platform == "win32" else ""
    words = [
        ["hvbridge", "connect", f"hyperv://{VM}/2222", "--dial-timeout", "30s", "--connect-mode", "thread"]
    ]
    words += [["hvbridge", "connect", "hyperv://dev-box/ssh"]]
    commands = [" ".join(f"{quote}{word}{quote}" for word in line) for line in words]
    assert hosts(config) == (
        "# Made by `hvbridge ssh-config`, which overwrites what is changed here.\n"
        f"\nHost a-ssh\n    HostKeyAlias a-ssh\n    ProxyCommand {commands[0]}\n"
        f"\nHost b\n    HostKeyAlias b\n    ProxyCommand {commands[1]}\n"
    )


def test_a_service_by_name(tmp_path: Path) -> None:
    """A service keeps its name, which is looked up at each connection, and is for ssh where its id is."""
    mine = Service(service_id_of_port(22), "my sshd")

    class Registry:
        def services(self) -> list[Service]:
            return [mine]

    file = tmp_path / "config.toml"
    file.write_text("[[forward]]\nname = 'a'\nlisten = '127.0.0.1:1'\nconnect = 'hyperv://dev-box/my sshd'\n")
    config = load_config(file, environ={}, machine_of=lambda _: Machine(Registry()))
    assert proxy_command(["hyperv://dev-box/my sshd"]) in hosts(config)


def test_no_forward_for_ssh_is_told(tmp_path: Path) -> None:
    """A config without a forward for ssh is a mistake, and the message says what makes one."""
    with pytest.raises(ValueError, match="no forward is for ssh; let one connect to hyperv://VM/ssh"):
        hosts(config_of(tmp_path, f"name = 'web'\nconnect = 'hyperv://{VM}/80'"))


WORDS = [
    ["/usr/bin/hvbridge", "connect", "hyperv://dev-box/ssh"],
    ["/opt/my tools/hvbridge", "connect", "hyperv://My VM/ssh"],
    ["/opt/it's/hvbridge", "connect", 'hyperv://the "big" one/ssh'],
    ["/opt/$HOME `x`/hvbridge", "connect", "hyperv://100%h/ssh"],
    ["/opt/a;b&c|d/hvbridge", "connect", "hyperv://#1/ssh"],
    ["/opt/büro/hvbridge", "connect", "hyperv://開発/ssh"],
]


@posix_only
@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_quoting_for_a_shell(words: list[str]) -> None:
    """After ssh has replaced its %-sequences, a shell makes the words again."""
    command = proxy_command(["printf", "%s\\n", *words])
    done = subprocess.run(["sh", "-c", f"exec {command.replace('%%', '%')}"], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == words


@posix_only
@pytest.mark.skipif(shutil.which("ssh") is None, reason="NOT TESTED: no ssh here")
@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_quoting_for_ssh(words: list[str], tmp_path: Path) -> None:
    """ssh itself takes the command from a config, and starts the program with the words."""
    program, *arguments = words
    script = tmp_path / Path(program).relative_to("/")
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"${0%/*}/said"\n')
    script.chmod(0o700)
    config = tmp_path / "config"
    config.write_text(
        f"Host vm\n    ProxyCommand {proxy_command([str(script), *arguments])}\n", encoding="utf-8"
    )
    subprocess.run(["ssh", "-F", config, "vm"], capture_output=True, timeout=30, check=False)
    assert (script.parent / "said").read_text(encoding="utf-8").splitlines() == arguments


WINDOWS = [
    (
        [r"C:\Program Files\hvbridge\hvbridge.exe", "connect", "hyperv://dev-box/ssh"],
        '"C:/Program Files/hvbridge/hvbridge.exe" "connect" "hyperv://dev-box/ssh"',
    ),
    ([r"C:\x.exe", "-m", "hvbridge"], '"C:/x.exe" "-m" "hvbridge"'),
    ([r"C:\x.exe", "hyperv://it's 100%/ssh"], '"C:/x.exe" "hyperv://it\'s 100%%/ssh"'),
    ([r"C:\x.exe", r'a "b\" c'], r'"C:/x.exe" "a \"b\\\" c"'),
    ([r"C:\x.exe", "end\\"], r'"C:/x.exe" "end\\"'),
]


@pytest.mark.parametrize(("words", "command"), WINDOWS)
def test_quoting_for_windows(words: list[str], command: str) -> None:
    """The program comes first, in quotes and with slashes; every word is quoted, and quotes in it are escaped."""
    assert proxy_command(words, windows=True) == command


@pytest.mark.skipif(
    sys.platform != "win32", reason="only Windows splits a command line in the program itself"
)
@pytest.mark.parametrize(("words", "command"), WINDOWS[2:])
def test_windows_makes_the_words_again(words: list[str], command: str) -> None:
    """A program that Windows starts with the command line has the words for arguments."""
    line = f'"{sys.executable}" -c "import sys; print(ascii(sys.argv[1:]))" ' + command.replace("%%", "%")
    done = subprocess.run(line, capture_output=True, check=True)
    assert done.stdout.decode().strip() == ascii([words[0].replace("\\", "/"), *words[1:]])


USERS = {
    "nothing": b"",
    "a host": b"Host a\n    User b\n",
    "lines of Windows": b"# mine\r\nHost a\r\n    User b\r\n",
    "a mark": b"\xef\xbb\xbfHost a\n",
    "no end of line": b"Host a\n    User b",
    "another include": b"Include other.conf\nInclude hvbridge.conf.d/*\n#Include hvbridge.conf\n",
    "bytes that are no text": b"# \xff\xfe\x00\nHost a\n",
}


@pytest.mark.parametrize("before", USERS.values(), ids=USERS.keys())
def test_installed_and_uninstalled_again(before: bytes, tmp_path: Path) -> None:
    """One line comes first, in the style of the file, once however often; without it the file is as it was."""
    user = tmp_path / "config"
    user.write_bytes(before)
    for text in ("old\n", "new\n"):
        install_in(tmp_path, text)
        mark = b"\xef\xbb\xbf" if before.startswith(b"\xef\xbb\xbf") else b""
        line = LINE.replace(b"\n", b"\r\n") if b"\r\n" in before else LINE
        assert user.read_bytes() == mark + line + before.removeprefix(mark)
        assert (tmp_path / INCLUDED).read_bytes() == text.encode()
    for _ in range(2):
        uninstall_from(tmp_path)
        assert (user.read_bytes() if user.exists() else b"") == before
    assert [path for path in tmp_path.iterdir() if path != user] == []


@pytest.mark.parametrize(
    "line",
    [
        b"include hvbridge.conf",
        b'  Include = "hvbridge.conf"\t',
        b"Include ~/.ssh/hvbridge.conf",
    ],
)
def test_line_of_the_user_is_taken_for_ours(line: bytes, tmp_path: Path) -> None:
    """A user who moved or rewrote the line keeps it where it is, and uninstalling finds it."""
    user = tmp_path / "config"
    user.write_bytes(b"User me\n" + line + b"\nHost a\n")
    install_in(tmp_path, "")
    assert user.read_bytes() == b"User me\n" + line + b"\nHost a\n"
    uninstall_from(tmp_path)
    assert user.read_bytes() == b"User me\nHost a\n"


def test_where_there_was_nothing(tmp_path: Path) -> None:
    """Without a ~/.ssh it is made for its owner alone, and uninstalling leaves no file in it."""
    directory = tmp_path / ".ssh"
    install_in(directory, "text\n")
    assert (directory / "config").read_bytes() == LINE
    if sys.platform != "win32":
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())]
        assert modes == [0o700, 0o600, 0o600]
    uninstall_from(directory)
    assert list(directory.iterdir()) == []
    uninstall_from(tmp_path / "nowhere")


@posix_only
def test_rights_and_links_are_kept(tmp_path: Path) -> None:
    """A config that is a link stays one, and what it leads to keeps its mode."""
    kept = tmp_path / "dotfiles"
    kept.write_bytes(b"Host a\n")
    kept.chmod(0o640)
    directory = tmp_path / ".ssh"
    directory.mkdir()
    (directory / "config").symlink_to("../dotfiles")
    install_in(directory, "")
    assert (directory / "config").is_symlink()
    assert kept.read_bytes() == LINE + b"Host a\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    kept.write_bytes(LINE)
    uninstall_from(directory)
    assert (directory / "config").is_symlink()
    assert kept.read_bytes() == b""


def test_a_config_in_utf16_is_left_alone(tmp_path: Path) -> None:
    """What ssh cannot read is not made worse."""
    data = "Host a\n".encode("utf-16")
    (tmp_path / "config").write_bytes(data)
    with pytest.raises(ValueError, match="save it as UTF-8"):
        install_in(tmp_path, "")
    assert (tmp_path / "config").read_bytes() == data
    assert not (tmp_path / INCLUDED).exists()


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the new file cannot be put in place, the old one is whole, and nothing is left beside it."""
    (tmp_path / "config").write_bytes(b"Host a\n")
    install_in(tmp_path, "old\n")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr("hvbridge.cli.ssh_config._replace_with_rights", fail, raising=False)
    with pytest.raises(PermissionError):
        install_in(tmp_path, "new\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "config": LINE + b"Host a\n",
        INCLUDED: b"old\n",
    }
