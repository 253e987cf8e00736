"""Exit codes, and printing errors.

Imports nothing slow until there is an error: `hvbridge connect` waits for this module.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from hvbridge.text import escaped

if TYPE_CHECKING:
    from hvbridge.config import ConfigError

EXIT_OK = 0
EXIT_FAILURE = 1
"""The command failed, or could not continue."""
EXIT_USAGE = 2
"""The command line or the config is wrong."""

P = ParamSpec("P")


def print_error(message: object) -> None:
    """Print an error for a person on standard error; where that cannot be written, the exit code must do."""
    _print(f"hvbridge: {message}")


def print_faults(error: "ConfigError") -> None:
    """Print one fault per line, in the format of compilers, so that editors can jump to it."""
    for fault in error.faults:
        _print(fault)


def _print(line: object) -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            print(escaped(str(line)), file=sys.stderr)  # noqa: T201 - the one place for errors


def exit_code(
    *failures: type[Exception],
) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """Return a decorator that turns exceptions of a command into messages and exit codes.

    The decorated function returns an exit code, or None for success. A faulty config or command line (ValueError) gives
    `EXIT_USAGE`; ``failures`` give `EXIT_FAILURE`. Not for long-running work (`run`, `doctor`), where a ValueError is a
    bug.
    """

    def decorate(work: Callable[P, int | None]) -> Callable[P, int]:
        @wraps(work)
        def command(*args: P.args, **kwargs: P.kwargs) -> int:
            from hvbridge.config import ConfigError

            try:
                return work(*args, **kwargs) or EXIT_OK
            except ConfigError as error:
                print_faults(error)
                return EXIT_USAGE
            except failures as error:
                print_error(error)
                return EXIT_FAILURE
            except ValueError as error:
                print_error(error)
                return EXIT_USAGE

        return command

    return decorate
