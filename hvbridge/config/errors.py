"""Faults of a config, and their messages, which replace those of tomli and pydantic."""

from dataclasses import dataclass
from typing import get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from tomli import TOMLDecodeError

from hvbridge.config.models import (
    AdminSettings,
    Config,
    EmulatorSettings,
    Forward,
    Health,
    LimitSettings,
    Settings,
    Table,
    bounds,
)
from hvbridge.text import kind_of, nearest, quote, shown

Path = tuple[str | int, ...]
"""The location of a value in a config: the keys and list indices that lead to it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``str()`` is the message for the user; line and column count from 1.

    ``line`` and ``column`` are 0 if the file could not be read; ``where`` may be empty.
    """

    file: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (position, self.where, self.message) if part)


class ConfigError(Exception):
    """A config cannot be used; ``faults`` lists everything that is wrong, in the order of the file."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


_STRING_END = "this string is not closed; end it with the same quotes, on the same line"
_TWICE = "this key or table is already defined; keep one of them, and write [[forward]] for each forward"
_NO_TOML = "this is not valid TOML; see https://toml.io for the syntax"
_ESCAPE = r"a backslash starts an escape sequence here; write \\ for a backslash, or use single quotes"
_SYNTAX = {
    "Invalid value": 'this is not a TOML value; write strings in quotes, as in "10s", and true or false without',
    "Expected newline": "unexpected text after the value; write strings in quotes, and each key on its own line",
    "Expected '='": "= is missing after this key; write key = value",
    "Invalid statement": "expected a key or a table here; write key = value, [table] or # comment",
    "Invalid initial character": "expected a key here; write key = value, with unusual keys in quotes",
    "Cannot overwrite": _TWICE,
    "Cannot declare": _TWICE,
    "Cannot mutate": _TWICE,
    "Cannot redefine": _TWICE,
    "Duplicate inline table key": _TWICE,
    "Expected ']": "the brackets of this table header are not closed; write [defaults], [emulator] or [[forward]]",
    "Expected ": _STRING_END,
    "Unterminated string": _STRING_END,
    r"Illegal character '\n'": _STRING_END,
    "Unclosed array": "this list is not closed; end it with ]",
    "Unclosed inline table": "this inline table is not closed; end it with }",
    "Unescaped": _ESCAPE,
    "Invalid hex": _ESCAPE,
    "Escaped character": "this escape sequence is not a character; write another number after the backslash",
    "Invalid date": 'this is not a valid date; write strings in quotes, as in "10s"',
    "Illegal character": "unexpected control character; delete it",
    "Found invalid character": "unexpected control character; delete it",
}
"""Our message for each of tomli's, by its beginning; the first match counts."""


def of_syntax(error: TOMLDecodeError) -> tuple[int, int, str]:
    """Return where the text stops being TOML (line and column), and the message."""
    message = next((ours for start, ours in _SYNTAX.items() if error.msg.startswith(start)), _NO_TOML)
    column = error.colno
    if error.msg == "Invalid value" and error.doc[error.pos : error.pos + 1] in ("", "\n", "#"):
        message = "a value is missing here; write key = value"
    elif message == _TWICE:  # tomli points after the value
        line = error.doc.split("\n")[error.lineno - 1]
        column = len(line) - len(line.lstrip()) + 1
    return error.lineno, column, message


def is_unknown_key(error: ErrorDetails) -> bool:
    """Whether a pydantic error is about a key rather than its value."""
    return error["type"] == "extra_forbidden"


def of_shape(error: ErrorDetails) -> str:  # noqa: C901 - one table, a row for each fault
    """Return our message for a pydantic error; it contains none of pydantic's own text."""
    path, value, context = error["loc"], error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":  # from our own parsers
            return str(context["error"])
        case "missing" | "too_short" if path == ("forward",):
            return "the config has no forward; write [[forward]] and, below it, name, listen and connect"
        case "missing":
            return f"this key is missing; write {_example(path)}"
        case "extra_forbidden":
            return _unknown_key(path)
        case "tuple_type" if path != ("forward",):
            return f"{kind_of(value)} is not a list; write {_example(path)}"
        case "tuple_type" if isinstance(value, dict):
            return "this is a single table; write [[forward]], in double brackets, for each forward"
        case "tuple_type":
            return f"{kind_of(value)} is not a list of forwards; write [[forward]] on a line of its own"
        case "model_type" if path[-1] == "health":
            return f'{kind_of(value)} is not a table; write health = {{ expect = "SSH-" }}, or health = {{}}'
        case "model_type" if len(path) > 1:
            return f"{kind_of(value)} is not a forward; write [[forward]] and, below it, name, listen and connect"
        case "model_type":
            return f"{kind_of(value)} is not a table; write [{path[0]}] on a line of its own, once"
        case "string_type" if path[-1] != "name":
            return f"{kind_of(value)} is not a string; write {_example(path)}"
        case "string_too_long":
            return f"this string is too long; write at most {context['max_length']} characters"
        case "string_type":
            return f"{kind_of(value)} is not a name; write {_example(path)}"
        case "string_pattern_mismatch":
            return (
                f"{quote(value)} is not a name; write up to 64 letters, digits, dots, hyphens or underscores"
            )
        case "int_type" | "int_from_float":
            return f"{shown(value)} is not a whole number; write {_example(path)}"
        case "greater_than_equal" | "less_than_equal":
            lowest, highest = bounds(_field(path))
            return f"{shown(value)} is out of range; write a whole number from {lowest} to {highest}"
        case "bool_type":
            return f"{shown(value)} is neither true nor false; write {path[-1]} = true or {path[-1]} = false"
        case "literal_error":
            return (
                f"{shown(value)} is not an allowed value; {_choice(value, get_args(_field(path).annotation))}"
            )
        case _:
            return f"{shown(value)} is not allowed here; write {_example(path)}"


def _unknown_key(path: Path) -> str:
    key, table = str(path[-1]), _table(path)
    if table is Config and key in Forward.model_fields:
        return (
            "this key belongs in a forward; move it below [[forward]], or below [defaults] to apply it to all"
        )
    if table is Settings and key in Forward.model_fields:
        return f"each forward has its own {key}; write it below [[forward]]"
    keys = [field.alias or name for name, field in table.model_fields.items()]
    near = nearest(key, keys)
    if near:
        return f"unknown key; did you mean {near}?"
    return f"unknown key; write one of {', '.join(sorted(keys))}"


def _table(path: Path) -> type[Table]:
    if len(path) == 1:
        return Config
    if "health" in path[:-1]:
        return Health
    tables: dict[str, type[Table]] = {
        "forward": Forward,
        "defaults": Settings,
        "emulator": EmulatorSettings,
        "admin": AdminSettings,
        "limits": LimitSettings,
    }
    return tables[str(path[0])]


def _field(path: Path) -> FieldInfo:
    return _table(path).model_fields[str(path[-1])]


def _example(path: Path) -> str:
    field = _field(path)
    example = field.examples[0] if field.examples else field.default
    if isinstance(example, list):
        return f"{path[-1]} = [{', '.join(map(quote, example))}]"
    return f"{path[-1]} = {quote(example) if isinstance(example, str) else example}"


def _choice(value: object, choices: tuple[str, ...]) -> str:
    near = nearest(value, choices) if isinstance(value, str) else None
    return f"did you mean {quote(near)}?" if near else f"write one of {', '.join(map(quote, choices))}"
