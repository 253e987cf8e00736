"""Helpers for messages: problems with advice, quoting, names of value types, near matches."""

from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 80
"""Characters. A longer text adds nothing, and pushes the advice out of sight."""

_LONGEST_NUMBER = 10**20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it; ``str()`` is both, on one line."""

    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what


def printable(text: str) -> str:
    """Return ``text`` on one line, truncated if long, with control characters escaped."""
    return escaped(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def escaped(text: str) -> str:
    """Return all of ``text`` on one line, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quote(text: str) -> str:
    """Return ``text`` as `printable` does, in double quotes."""
    return f'"{printable(text)}"'


def shown(value: object) -> str:
    """Return a TOML value for a message: a quoted string, a number, or else the name of its type."""
    match value:
        case str():
            return quote(value)
        case bool():
            return "a boolean"
        case int() if abs(value) > _LONGEST_NUMBER:  # str() refuses thousands of digits
            return "a huge number" if value > 0 else "a huge negative number"
        case int() | float():
            return str(value)
        case _:
            return kind_of(value)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that ``word`` most likely misspells, or None if none is close."""
    import difflib  # slow to import, and needed only for errors

    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.65)
    return by_folded[matches[0]] if matches else None


def kind_of(value: object) -> str:
    """Return the name of a TOML value's type: `a string`, `a table`, ..."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
