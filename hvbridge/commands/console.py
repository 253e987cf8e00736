"""What the commands share in speaking to a person.

Owns: exit codes, the form of an error. Refuses: logging (`log`), and anything slow to import.
"""

import sys

EXIT_OK = 0
EXIT_FAILURE = 1
"""It could not do, or go on doing, what was asked."""
EXIT_USAGE = 2
"""What was asked, or the config, is wrong."""


def complain(message: object) -> None:
    """Print an error for a person on standard error."""
    print(f"hvbridge: {message}", file=sys.stderr)  # noqa: T201
