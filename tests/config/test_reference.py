"""What is generated from the models: the JSON Schema and the reference page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvbridge.config import config_reference, schema

ROOT = Path(__file__).parents[2]
WRITE_SCHEMA = "run: python -m hvbridge schema > configs/hvbridge.schema.json"
WRITE_PAGE = (
    "run: python -c 'from hvbridge.config import config_reference; print(config_reference(), end=\"\")' "
    "> docs/reference/config.md"
)


def test_the_shipped_schema_is_that_of_the_models() -> None:
    """Editors complete by the file in configs/, which is what `hvbridge schema` prints."""
    shipped = (ROOT / "configs" / "hvbridge.schema.json").read_text(encoding="utf-8")
    assert shipped == json.dumps(schema(), indent=2) + "\n", WRITE_SCHEMA


def test_the_reference_page_is_that_of_the_models() -> None:
    """The page in docs/ says what the models say."""
    shipped = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert shipped == config_reference(), WRITE_PAGE


def properties() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of every table, with its schema."""
    for table in schema()["$defs"].values():
        yield from table["properties"].items()


def test_every_key_is_described_and_every_table_is_closed() -> None:
    """An editor can explain each key, and marks each unknown one."""
    generated = schema()
    assert generated["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert generated["title"]
    assert all(described["description"] for _, described in properties())
    assert all(described["description"] for described in generated["properties"].values())
    assert not any(table["additionalProperties"] for table in [generated, *generated["$defs"].values()])


def accepts(described: dict[str, Any], value: Any) -> bool:
    """Whether a schema of one key, as far as ours use the language, accepts a value."""
    if "anyOf" in described:
        return any(accepts(choice, value) for choice in described["anyOf"])
    if "enum" in described:
        return value in described["enum"]
    match described["type"]:
        case "array":
            return isinstance(value, list) and all(accepts(described["items"], item) for item in value)
        case "string":
            return isinstance(value, str) and re.search(described.get("pattern", ""), value) is not None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int and described["minimum"] <= value <= described["maximum"]
        case _:
            return type(value) in (int, float) and value > described["exclusiveMinimum"]


def test_defaults_and_examples_satisfy_their_own_schema() -> None:
    """What an editor fills in is not what it then marks as wrong, and is JSON of any reader's kind."""
    for key, described in properties():
        shown = [described["default"]] if "default" in described else described.get("examples", [])
        assert all(accepts(described, value) for value in shown), key
    json.dumps(schema(), allow_nan=False)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("dial_timeout", ["10s", "1.5 m", 3, 0.5, "off", "${T}"], ["10 sec", 0, True, ""]),
        ("buffer", ["64KiB", 65536, "system", "${B}"], ["64KB", 1, "off"]),
        (
            "listen",
            ["h:1", "tcp://[::1]:1", "HYPERV://any/1", "unix:///a", "vsock://any:1", "h:${P}"],
            ["h", "udp:/h", 1],
        ),
        ("name", ["ssh", "${N}"], ["my ssh", ""]),
        ("partition", ["host", "{6A0C8E2E-1B1D-4C3E-8D5F-000000000001}"], ["guest"]),
        ("backlog", [1], [0, "1", 70000]),
    ],
)
def test_the_schema_accepts_what_the_loader_does(key: str, good: list[Any], bad: list[Any]) -> None:
    """The patterns for editors follow the notations, and leave strings with variables alone."""
    described = dict(properties())[key]
    assert [value for value in good if not accepts(described, value)] == []
    assert [value for value in bad if accepts(described, value)] == []


def test_the_page_has_a_row_for_every_key_with_its_default() -> None:
    """No key is left out of the reference."""
    page = config_reference()
    for key, described in properties():
        default = f"`{json.dumps(described['default'])}`" if "default" in described else "(required|none)"
        default = default if "|" in default else re.escape(default)
        assert re.search(rf"^\| `{key}` \| .+ \| {default} \| .+ \|$", page, re.MULTILINE), key
