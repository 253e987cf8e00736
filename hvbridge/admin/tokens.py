"""Reads the token for the admin endpoint. No heavy imports: `hvbridge status` waits for this module."""

from pathlib import Path


def read_token(file: Path) -> str:
    """Return the token in the first line of ``file``. Raises ValueError with a message for the user."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f'the token file "{file}" cannot be read ({error.strerror}); give this user read permission'
        ) from error
    except UnicodeDecodeError:
        text = ""
    return checked_token(text.partition("\n")[0], f'"{file}"')


def checked_token(text: str, where: str) -> str:
    """Return ``text`` without surrounding whitespace. Raises ValueError if it is not a token."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"{where} does not contain a valid token; its first line must be one, in printable ASCII"
        )
    return token
