"""What a command raises, as a message and an exit code.

Owns: that one rule. Refuses: long-running work (`run`, `doctor`), in which a ValueError is a bug and no message.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from hvbridge.commands.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, complain
from hvbridge.config import ConfigError

P = ParamSpec("P")


def exit_code(
    *failures: type[Exception],
) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """Return a decorator for what does a command's work and returns its exit code, or None for success.

    Faults of a config and of the command line (ValueError) are told and give `EXIT_USAGE`, ``failures`` `EXIT_FAILURE`.
    """

    def decorate(work: Callable[P, int | None]) -> Callable[P, int]:
        @wraps(work)
        def command(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return work(*args, **kwargs) or EXIT_OK
            except ConfigError as error:
                print_faults(error)
                return EXIT_USAGE
            except failures as error:
                complain(error)
                return EXIT_FAILURE
            except ValueError as error:
                complain(error)
                return EXIT_USAGE

        return command

    return decorate


def print_faults(error: ConfigError) -> None:
    """Print each fault on a line, the way compilers do, so that editors can jump to it."""
    for fault in error.faults:
        print(fault, file=sys.stderr)  # noqa: T201
