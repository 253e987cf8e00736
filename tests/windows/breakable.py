"""Runs `python -m MODULE …`, and raises SIGBREAK in it for each byte of standard input.

For Wine, which has no console events. What this leaves out is the console's own part: that Ctrl-Break arrives.
"""

import os
import runpy
import signal
import sys
import threading

assert sys.platform == "win32"


def heed_input() -> None:
    """Raise one signal a byte, until the end."""
    while os.read(sys.stdin.fileno(), 1):  # a thread that waits in sys.stdin itself breaks Python's own end
        signal.raise_signal(signal.SIGBREAK)


if __name__ == "__main__":
    _, _python, _option, module, *sys.argv[1:] = sys.argv
    threading.Thread(target=heed_input, daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
