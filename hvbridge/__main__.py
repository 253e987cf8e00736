"""`python -m hvbridge` and the `hvbridge` script: the same program."""

from hvbridge.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="hvbridge")


if __name__ == "__main__":
    main()
