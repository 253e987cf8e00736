"""The command that starts this hvbridge from elsewhere, quoted for the shell of this system."""

import shlex
import subprocess
import sys
from pathlib import Path


def program() -> list[str]:
    """Return the command, as a list of words, that starts this hvbridge from any directory and with any PATH."""
    script = Path(sys.executable).with_name("hvbridge.exe" if sys.platform == "win32" else "hvbridge")
    return [str(script)] if script.exists() else [sys.executable, "-P", "-m", "hvbridge"]


def command_line(*arguments: str) -> str:
    """Return the command line that runs this hvbridge with ``arguments``, as a user would type it."""
    words = [*program(), *arguments]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
