"""`hvbridge ssh-config`: forwards as hosts of ssh_config(5), printed, or installed for ssh to find.

Owns: which forwards are for ssh, how ProxyCommand is quoted, the file hvbridge.conf in ~/.ssh, and one line of
~/.ssh/config. Refuses: every other line there.
"""

import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from hvbridge.address.endpoint import HypervEndpoint, NamedHypervEndpoint, TcpEndpoint, VsockEndpoint
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, exit_code, print_error
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.cli.program import program
from hvbridge.config import Config, Forward, Settings
from hvbridge.hyperv.guid import HOST, partition_text, service_id_of_port
from hvbridge.units import format_duration

INCLUDED = "hvbridge.conf"
_INCLUDE = f"Include {INCLUDED}".encode()
_INCLUDES = re.compile(
    rb'^[ \t]*include[ \t=]+"?(?:~/\.ssh/)?' + re.escape(INCLUDED).encode() + rb'"?[ \t]*(?:\r?\n|\Z)',
    re.IGNORECASE | re.MULTILINE,
)
"""The line as we write it, or as a user may have rewritten it."""
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_SSH_PORT = 22
_DEFAULTS = Settings()


@exit_code()
def ssh_config(path: Path, *, install: bool, uninstall: bool) -> int:
    """Print or install the hosts of the config at ``path``, or remove them again; return the exit code."""
    directory = Path.home() / ".ssh"
    try:
        if install and uninstall:
            raise ValueError("--install and --uninstall are opposites; leave one out")
        if uninstall:
            uninstall_from(directory)
            return EXIT_OK
        text = hosts(load_for_any_machine(path))
        if not install:
            typer.echo(text, nl=False)
            return EXIT_OK
        install_in(directory, text)
    except OSError as error:
        print_error(f"{error.filename or directory} cannot be changed: {error.strerror}")
        return EXIT_FAILURE
    return EXIT_OK


def hosts(config: Config) -> str:
    """Return a Host block for each forward of ``config`` that is for ssh. Raises ValueError when none is."""
    blocks = [_block(config, forward) for forward in config.forwards if is_for_ssh(forward)]
    if not blocks:
        raise ValueError(
            'no forward is for ssh; let one connect to hyperv://VM/ssh, or put "ssh" into its name, as in "box-ssh"'
        )
    return "\n".join(["# Made by `hvbridge ssh-config`, which overwrites what is changed here.\n", *blocks])


def is_for_ssh(forward: Forward) -> bool:
    """Whether a forward leads to an SSH server: by its service or port, or else by a word of its name."""
    if "ssh" in re.split("[._-]", forward.name.casefold()):
        return True
    match forward.connect:
        case HypervEndpoint(service=service) | NamedHypervEndpoint(service=service):
            return service == service_id_of_port(_SSH_PORT)
        case VsockEndpoint(port=port) | TcpEndpoint(port=port):
            return port == _SSH_PORT
    return False


def _block(config: Config, forward: Forward) -> str:
    command = [*program(), "connect", str(forward.connect)]
    if forward.dial_timeout != _DEFAULTS.dial_timeout:
        command += ["--dial-timeout", format_duration(forward.dial_timeout)]
    if forward.connect_mode != _DEFAULTS.connect_mode:
        command += ["--connect-mode", forward.connect_mode]
    lines = [f"Host {forward.name}", f"    HostKeyAlias {forward.name}"]
    variables = _emulator_variables(config)
    if variables and sys.platform == "win32":
        lines.append(
            f"    # ssh on Windows passes on its own environment only; set there: {' '.join(variables)}"
        )
    elif variables:
        command = ["env", *variables, *command]
    lines.append(f"    ProxyCommand {proxy_command(command)}")
    return "\n".join([*lines, ""])


def _emulator_variables(config: Config) -> list[str]:
    """What makes `hvbridge connect` emulate as the config does, else as this process would."""
    if config.emulator is None:
        directory, partition = (
            os.environ.get("HVBRIDGE_EMULATOR"),
            os.environ.get("HVBRIDGE_PARTITION", "host"),
        )
    else:
        directory, partition = config.emulator.dir, partition_text(config.emulator.partition)
    if not directory:
        return []
    variables = [f"HVBRIDGE_EMULATOR={Path(directory).absolute()}"]
    return variables if partition == partition_text(HOST) else [*variables, f"HVBRIDGE_PARTITION={partition}"]


def proxy_command(words: list[str], *, windows: bool = sys.platform == "win32") -> str:
    """Return ``words`` as a value of ProxyCommand.

    ssh first replaces %-sequences. Elsewhere than on Windows the user's shell takes the rest. Windows' own ssh
    starts the program without a shell; it leaves a text that begins with a quote as it is, and mends others. The
    ssh of Git for Windows has a POSIX shell, which takes the same quotes, and slashes but no backslashes.
    Source: PowerShell/openssh-portable, sshconnect.c, build_commandline_string in contrib/win32/win32compat/misc.c.
    """
    if windows:
        first, *others = words
        quoted = " ".join([_windows_quoted(first.replace("\\", "/")), *map(_windows_quoted, others)])
    else:
        quoted = shlex.join(words)
    return quoted.replace("%", "%%")


def _windows_quoted(word: str) -> str:
    """Quote a word for the C runtime of Windows, also where only ssh's own check of quotes asks for it."""
    doubled = re.sub(r'(\\+)(?="|$)', r"\1\1", word)
    return '"' + doubled.replace('"', '\\"') + '"'


def install_in(directory: Path, text: str) -> None:
    """Write the hosts into ``directory``, and include them first in its config. Raises OSError, ValueError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = directory / "config"
    mark, lines = _read(user)
    if lines.startswith(_UTF16_MARKS):
        raise ValueError(f"{user} is in UTF-16, which ssh does not read; save it as UTF-8")
    replace_file(directory / INCLUDED, text.encode())
    if not _INCLUDES.search(lines):
        # First, for ssh takes the first value that it finds, and a line after a Host would belong to that.
        end = b"\r\n" if b"\r\n" in lines else b"\n"
        replace_file(user, mark + _INCLUDE + end + lines)


def uninstall_from(directory: Path) -> None:
    """Remove what `install_in` made. Raises OSError."""
    user = directory / "config"
    mark, lines = _read(user)
    others = _INCLUDES.sub(b"", lines)
    if lines and not others and not user.is_symlink():
        user.unlink()
    elif others != lines:
        replace_file(user, mark + others)
    (directory / INCLUDED).unlink(missing_ok=True)


def _read(path: Path) -> tuple[bytes, bytes]:
    """The mark before UTF-8 that editors on Windows make, where there is one, and the lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    lines = data.removeprefix(_UTF8_MARK)
    return data[: len(data) - len(lines)], lines


def replace_file(path: Path, data: bytes) -> None:
    """Let ``path`` hold ``data``, all at once, with the rights that it has, or for its owner alone. Raises OSError.

    Where it is a link, what it leads to is replaced.
    """
    path = path.resolve()
    with _temporary(path.parent, data) as new:
        if not path.exists():
            new.replace(path)
        elif sys.platform == "win32":
            _replace_with_rights(path, new)
        else:
            old = path.stat()
            new.chmod(old.st_mode & 0o7777)
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.chown(new, old.st_uid, old.st_gid)
            new.replace(path)


@contextlib.contextmanager
def _temporary(directory: Path, data: bytes) -> Iterator[Path]:
    """A file with ``data`` for its owner alone, which is removed where it was not moved away."""
    descriptor, name = tempfile.mkstemp(prefix="hvbridge-", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


if sys.platform == "win32":
    import ctypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

    def _replace_with_rights(path: Path, new: Path) -> None:
        """Replace by ReplaceFileW, which keeps the access rights of ``path``; a rename would not."""
        if not _kernel32.ReplaceFileW(str(path), str(new), None, 0, None, None):
            raise ctypes.WinError(ctypes.get_last_error())
