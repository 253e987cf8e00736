"""What a command tells of a failure: exit codes, one line for a person, and which exception means which.

Nothing slow is imported before there is something to tell: `hvbridge connect` pays for this module.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from hvbridge.config import ConfigError

EXIT_OK = 0
EXIT_FAILURE = 1
"""It could not do, or go on doing, what was asked."""
EXIT_USAGE = 2
"""What was asked, or the config, is wrong."""

P = ParamSpec("P")


def print_error(message: object) -> None:
    """Print an error for a person on standard error; where that cannot be written, the exit code must do."""
    _print(f"hvbridge: {message}")


def print_faults(error: "ConfigError") -> None:
    """Print each fault on a line, as compilers do, so that editors can jump to it."""
    for fault in error.faults:
        _print(fault)


def _print(line: object) -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr)  # noqa: T201 - the one place for errors


def exit_code(
    *failures: type[Exception],
) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """Return a decorator for a command's work, which returns an exit code, or None for success.

    A faulty config or command line (ValueError) is printed and gives `EXIT_USAGE`; ``failures`` give `EXIT_FAILURE`.
    Not for long-running work (`run`, `doctor`), in which a ValueError is a bug and not a message.
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
