"""How this hvbridge is started from elsewhere: for ssh's config, and for a prompt with other rights.

Owns: its full command, and quoting for the shells of this system. Refuses: running anything.
"""

import shlex
import subprocess
import sys
from pathlib import Path


def program() -> list[str]:
    """Return the words that start this hvbridge from any directory and with any PATH.

    -P keeps Python from importing what is in the directory where it is started.
    """
    script = Path(sys.executable).with_name("hvbridge.exe" if sys.platform == "win32" else "hvbridge")
    return [str(script)] if script.exists() else [sys.executable, "-P", "-m", "hvbridge"]


def command_line(*arguments: str) -> str:
    """Return the command that runs this hvbridge with ``arguments``, as a person types it."""
    words = [*program(), *arguments]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
