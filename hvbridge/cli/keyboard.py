"""Single keys of the keyboard, without Enter.

Owns: the terminal's mode while keys are read, and its return to what it was. Refuses: what a key does.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPT, END = "\x03", "\x04"
"""Ctrl-C where a console takes it for a key, and the end of the input."""

PressedKey = Callable[[float], str]
"""Waits for up to some seconds, and returns the key that was pressed meanwhile, or an empty text."""


def _wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


if sys.platform == "win32":
    import msvcrt

    _POLL = 0.02
    """Seconds: a console cannot be waited for together with a deadline, and a person does not notice this."""

    def _pressed(seconds: float) -> str:
        end = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if time.monotonic() >= end:
                return ""
            time.sleep(_POLL)
        return msvcrt.getwch()

    @contextmanager
    def keys() -> Iterator[PressedKey]:
        """Give what reads keys; without a keyboard, what only waits."""
        yield _pressed if sys.stdin.isatty() else _wait

else:
    import os
    import select
    import termios
    import tty

    @contextmanager
    def keys() -> Iterator[PressedKey]:
        """Give what reads keys; without a keyboard, what only waits."""
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
