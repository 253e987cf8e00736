"""How messages show what the user wrote."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvbridge.text import nearest, printable, quote, shown


@given(st.text(st.characters()))
def test_what_is_shown_is_one_short_line_that_any_stream_can_carry(text: str) -> None:
    """No control character, half of a pair or endless text reaches a terminal or a log."""
    line = printable(text)
    assert line == "" or line.isprintable()
    assert len(line) <= 10 * 80
    line.encode()


def test_a_long_text_is_cut() -> None:
    """Eighty characters are shown whole, and no more."""
    assert printable("x" * 80) == "x" * 80
    assert printable("x" * 81) == "x" * 79 + "…"
    assert quote("a\n\x1b") == '"a\\n\\x1b"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        (True, "a boolean"),
        (1.5, "1.5"),
        (-3, "-3"),
        ([1], "a list"),
        ({}, "a table"),
    ],
)
def test_a_value_is_shown_as_a_user_would_name_it(value: Any, text: str) -> None:
    """Texts and numbers are shown, the rest is named."""
    assert shown(value) == text


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lisen", "listen"), ("LISTEN", "listen"), ("conect", "connect"), ("backlog", None), ("", None)],
)
def test_the_nearest_candidate_is_found(word: str, meant: str | None) -> None:
    """A slip of the pen is near, another word is not."""
    assert nearest(word, ["listen", "connect"]) == meant
