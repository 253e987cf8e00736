"""Reads single keys from the keyboard, without Enter, and restores the terminal's mode afterwards."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPT, END = "\x03", "\x04"
"""Ctrl-C, on a console that reports it as a key; and the end of the input."""

PressedKey = Callable[[float], str]
"""Waits up to the given seconds; returns the key that was pressed, or an empty string."""


def _wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


if sys.platform == "win32":
    import msvcrt

    _POLL = 0.02
    """Seconds. A console cannot be waited for with a timeout; a person does not notice this interval."""

    def _pressed(seconds: float) -> str:
        end = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if time.monotonic() >= end:
                return ""
            time.sleep(_POLL)
        return msvcrt.getwch()

    @contextmanager
    def keys() -> Iterator[PressedKey]:
        """Yield a function that reads keys; without a keyboard, one that only waits."""
        yield _pressed if sys.stdin.isatty() else _wait

else:
    import os
    import select
    import termios
    import tty

    @contextmanager
    def keys() -> Iterator[PressedKey]:
        """Yield a function that reads keys; without a keyboard, one that only waits."""
        if not sys.stdin.isatty():
            yield _wait
            return
        keyboard = sys.stdin.fileno()

        def pressed(seconds: float) -> str:
            ready, _, _ = select.select([keyboard], [], [], seconds)
            return (os.read(keyboard, 1).decode("latin-1") or END) if ready else ""

        before = termios.tcgetattr(keyboard)
        tty.setcbreak(keyboard)  # Ctrl-C still interrupts
        try:
            yield pressed
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
