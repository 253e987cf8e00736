"""The OpenAPI document and the page of the reference say what is so."""

import re
from pathlib import Path
from typing import Any

import pytest

from hvbridge.admin.app import Api, routes
from hvbridge.admin.openapi import document
from hvbridge.proxy.events import ConnectionClosed
from hvbridge.splice import Reason

from .support import UNIX, Admin, record

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "admin-api.md"


def served() -> set[tuple[str, str]]:
    """Every method and path that the application has."""
    nothing: Any = None
    api = Api(nothing, nothing, nothing, nothing, nothing, True)
    return {
        (method, route.path) for route in routes(api) for method in route.methods or () if method != "HEAD"
    }


def test_the_document_is_valid() -> None:
    """The document keeps to the OpenAPI specification."""
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="openapi-spec-validator is not installed"
    )
    validator.validate(document())


def test_the_document_has_every_route() -> None:
    """The document has the routes of the application, and no others."""
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert described == served()


def test_the_reference_has_every_route() -> None:
    """So has the page of the reference."""
    rows = re.findall(
        r"^\| `([A-Z]+) (/[^ `?]*)(?:\?[^`]*)?` \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(rows) == served()
    assert len(rows) == len(set(rows))


def test_the_reference_has_every_field() -> None:
    """Every field of the API is on the page of the reference."""
    text = REFERENCE.read_text(encoding="utf-8")
    fields = {
        name for schema in document()["components"]["schemas"].values() for name in schema["properties"]
    }
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []


def test_the_reference_has_every_metric() -> None:
    """Every metric is on the page of the reference with its kind and labels, and no other."""
    from .test_metrics import TYPES

    rows = re.findall(
        r"^\| `(hvbridge_\w+)` \| (\w+) \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert dict(rows) == TYPES


async def test_the_document_is_served() -> None:
    """The document can be fetched from a running bridge."""
    reply = await Admin().ask("GET", "/openapi.json")
    assert reply.json == document()


LOOKS = ["/readyz", "/api/v1/status", "/api/v1/forwards", "/api/v1/connections", "/api/v1/closings"]


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        *(("GET", path, path) for path in LOOKS),
        ("GET", "/api/v1/connections", "/api/v1/connections?forward=nothing"),
        ("POST", "/api/v1/reload", "/api/v1/reload"),
        ("DELETE", "/api/v1/connections/{id}", "/api/v1/connections/99"),
    ],
)
async def test_answers_are_as_described(method: str, path: str, target: str) -> None:
    """What is answered fits the schema that the document has for that status."""
    jsonschema = pytest.importorskip("jsonschema", reason="openapi-spec-validator is not installed")
    admin = Admin(UNIX)
    admin.stats.on_event(ConnectionClosed(record(reason=Reason.DIAL_FAILED, dial_seconds=None)))
    admin.stats.on_event(ConnectionClosed(record()))
    reply = await admin.ask(method, target)
    responses = document()["paths"][path][method.lower()]["responses"]
    described = responses.get(str(reply.status), responses["default"])
    schema = described["content"]["application/json"]["schema"] | {"components": document()["components"]}
    jsonschema.Draft202012Validator(schema).validate(reply.json)
