"""`python -m hvbridge` and the `hvbridge` script: the same program."""

import os

from hvbridge.cli.app import app


def main() -> None:
    """Run the command line."""
    _open_standard_streams()
    app(prog_name="hvbridge")


def _open_standard_streams() -> None:
    """Open the null device for each standard descriptor that is closed.

    Else a socket would get its number, and a library that writes to standard error would write into a connection.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


if __name__ == "__main__":
    main()
