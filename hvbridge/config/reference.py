"""Generates the JSON Schema and the reference page from the models."""

import json
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

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
from hvbridge.config.notation import Notation

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WITH_VARIABLE = r"|\$\{[^{}]+\}"
"""Added to every pattern: a string with a variable is checked only once the variable is known."""

_INTRODUCTION = """\
<!-- Generated from hvbridge/config/models.py by hvbridge.config.config_reference(); edit the models. -->

# The config file

A config is one TOML file. Unknown keys, wrong types and out-of-range values are errors; all of them are reported
at once, and nothing is converted silently. `hvbridge check CONFIG` reports what is wrong with a file;
`hvbridge schema` prints its JSON Schema, which editors use for completion and checks.

## How values are written

| type | written as |
|---|---|
| duration | seconds, or a string with a unit: `"500ms"`, `"10s"`, `"2m"`, `"1h"`; `"off"` for no limit |
| size | bytes, or a string with a unit: `"64KiB"`, `"1MiB"`; `"system"` for the system's choice |
| endpoint | `"tcp://HOST:PORT"`, `"hyperv://VM/SERVICE"`, `"vsock://CID:PORT"`, `"unix:///PATH"` |
| host or GUID | `"host"`, or the GUID of a VM |
| rate | a number per unit of time: `"10/s"`, `"30/m"`; `"off"` for no limit |
| bandwidth | a size per second: `"512KiB/s"`, `"10MiB/s"`; `"off"` for no limit |
| source | a network, `"192.0.2.0/24"`; an address, `"192.0.2.1"`; the GUID of a VM; `"host"`; a CID, `3` |
| network | `"192.0.2.0/24"`, or an address |
| path | a path in quotes; on Windows, best in single quotes: `'C:\\hvbridge'` |

In every string, `${NAME}` stands for the environment variable NAME, which must be set; `$${` is a literal `${`.
"""

_SECTIONS: tuple[tuple[str, str, type[Table]], ...] = (
    (
        "[[forward]]",
        "One table for each forward; at least one is required. It takes these keys, and all those of `[defaults]`.",
        Forward,
    ),
    (
        "[defaults]",
        "Defaults for all forwards. A forward's own settings take precedence.",
        Settings,
    ),
    (
        "health = { … }",
        "The keys of a forward's `health`. An empty table, `{}`, checks only that a dial succeeds.",
        Health,
    ),
    (
        "[limits]",
        "Limits for all forwards together.",
        LimitSettings,
    ),
    (
        "[admin]",
        "This table turns on the admin endpoint: [watch a running bridge](../how-to/watch-a-running-bridge.md).",
        AdminSettings,
    ),
    (
        "[emulator]",
        "With this table, hyperv endpoints lead to other processes on this machine, and Hyper-V is not needed.",
        EmulatorSettings,
    ),
)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config file."""
    generated = Config.model_json_schema()
    for _, _, model in _SECTIONS:
        properties = generated["$defs"][model.__name__]["properties"]
        for name, field in model.model_fields.items():
            properties[name].pop("title", None)  # the name again, in capitals
            if field.default is None and _as_written(field) is None:
                _without_null(properties[name])
            elif not field.is_required():
                # pydantic would show the Python value: 10.0, Infinity, null.
                properties[name]["default"] = _as_written(field)
    for section in generated["properties"].values():
        section.pop("default", None)
        section.pop("title", None)
        if "anyOf" in section:
            _without_null(section)
    _allow_variables(generated)
    return {"$schema": _DIALECT, **generated}


def _without_null(described: dict[str, Any]) -> None:
    """Remove null from the schema of an optional value; TOML has no null."""
    described.pop("default", None)
    described |= described.pop("anyOf")[0]


def config_reference() -> str:
    """Return the reference page of the config file, in Markdown."""
    return "\n".join([_INTRODUCTION, *(_section(*section) for section in _SECTIONS)])


def _section(title: str, text: str, model: type[Table]) -> str:
    shared = Settings.model_fields if model is Forward else {}
    rows = [_row(name, field) for name, field in model.model_fields.items() if name not in shared]
    return "\n".join(
        [f"## `{title}`\n\n{text}\n\n| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{json.dumps(_as_written(field))}`"
    if default == "`null`":
        default = "none"
    return f"| `{name}` | {_type(field)} | {default} | {field.description} |"


def _type(field: FieldInfo) -> str:
    notation = _notation(field)
    if notation is not None:
        return f"list of {notation.name}s" if get_origin(field.annotation) is tuple else notation.name
    if Health in get_args(field.annotation):
        return "table"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    if field.annotation is int:
        lowest, highest = bounds(field)
        return f"{lowest} to {highest}"
    return "string"


def _as_written(field: FieldInfo) -> Any:
    """The default as written in a file."""
    notation = _notation(field)
    if isinstance(field.default, tuple):
        return list(field.default)
    is_left_out = field.default is None and not field.metadata
    return field.default if notation is None or is_left_out else notation.show(field.default)


def _notation(field: FieldInfo) -> Notation | None:
    parts = [Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation]
    while parts:  # into lists, and into what may be left out
        part = parts.pop()
        for data in get_args(part):
            if isinstance(data, Notation):
                return data
        parts += get_args(part)
    return None


def _allow_variables(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            node["pattern"] += _WITH_VARIABLE
        for child in node.values():
            _allow_variables(child)
    elif isinstance(node, list):
        for child in node:
            _allow_variables(child)
