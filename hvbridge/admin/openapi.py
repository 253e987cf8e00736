"""The OpenAPI document of the admin endpoint. Its schemas are generated from the types that are sent."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from hvbridge import __version__
from hvbridge.admin import schemas as views
from hvbridge.admin.stats import Closing, UpstreamChange
from hvbridge.proxy.control import ConnectionState

_SCHEMAS: list[type] = [
    views.Status,
    views.Readiness,
    views.ForwardView,
    ConnectionState,
    Closing,
    UpstreamChange,
    views.Snapshot,
    views.Reloaded,
    views.Faults,
    views.Error,
]

_Json = dict[str, Any]


@cache
def document() -> _Json:
    """Return the document, to be sent as JSON."""
    _, shared = TypeAdapter.json_schemas(
        [(schema, "serialization", TypeAdapter(schema)) for schema in _SCHEMAS],
        ref_template="#/components/schemas/{model}",
    )
    v1 = "/api/v1"
    connection_id = _parameter("id", "path", "integer", "The id of an open connection.")
    name = _parameter("name", "path", "string", "The name of a forward.")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hvbridge",
            "version": __version__,
            "description": "Inspect and control a running bridge. Times are ISO 8601 in UTC, sizes are in bytes. "
            "If a token is set, all paths but /livez, /readyz and / require it. Without one, only a Unix socket allows "
            "changes.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"token": []}, {}],
        "paths": {
            "/": {"get": _look("The web page.", _text("text/html"), security=[])},
            "/livez": {"get": _look("Whether the process is alive.", _text("text/plain"), security=[])},
            "/readyz": {
                "get": _look(
                    "Whether every listener is bound and every health check passes.",
                    _json(views.Readiness),
                    {"503": _response("It is not ready.", _json(views.Readiness))},
                    security=[],
                )
            },
            "/metrics": {"get": _look("Metrics for Prometheus.", _text("text/plain"))},
            "/openapi.json": {
                "get": _look("This document.", {"application/json": {"schema": {"type": "object"}}})
            },
            f"{v1}/status": {"get": _look("The bridge as a whole.", _json(views.Status))},
            f"{v1}/forwards": {"get": _look("Every forward, with totals.", _json_list(views.ForwardView))},
            f"{v1}/forwards/{{name}}/drain": {
                "post": _change("Make a forward stop listening; its connections continue.", [name])
            },
            f"{v1}/connections": {
                "get": _look(
                    "Open connections, with the bytes so far.",
                    _json_list(ConnectionState),
                    {"404": _error("There is no such forward.")},
                    parameters=[
                        _parameter(
                            "forward", "query", "string", "Only those of this forward.", required=False
                        )
                    ],
                )
            },
            f"{v1}/connections/{{id}}": {"delete": _change("Close a connection.", [connection_id])},
            f"{v1}/closings": {"get": _look("The last 200 closings, newest first.", _json_list(Closing))},
            f"{v1}/reload": {
                "post": {
                    "summary": "Reload the config.",
                    "responses": {
                        "200": _response("Done.", _json(views.Reloaded)),
                        "422": _response(
                            "The config has faults, and nothing has changed.", _json(views.Faults)
                        ),
                        "default": _error("The request was refused."),
                    },
                }
            },
            f"{v1}/events": {
                "get": _look(
                    "Server-sent events: snapshot (a Snapshot, every second), closed (a Closing), upstream (an "
                    "UpstreamChange). A slow reader loses the oldest events.",
                    _text("text/event-stream"),
                    {"503": _error("There are too many readers.")},
                )
            },
        },
        "components": {
            "schemas": shared["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _look(
    summary: str,
    content: _Json,
    responses: _Json | None = None,
    *,
    parameters: list[_Json] | None = None,
    security: list[_Json] | None = None,
) -> _Json:
    operation: _Json = {
        "summary": summary,
        "responses": {
            "200": _response("OK.", content),
            **(responses or {}),
            "default": _error("The request was refused."),
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if security is not None:
        operation["security"] = security
    return operation


def _change(summary: str, parameters: list[_Json]) -> _Json:
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "204": {"description": "Done."},
            "404": _error("Not found."),
            "default": _error("The request was refused."),
        },
    }


def _parameter(name: str, where: str, kind: str, description: str, *, required: bool = True) -> _Json:
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": {"type": kind},
    }


def _ref(schema: type) -> _Json:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


def _json(schema: type) -> _Json:
    return {"application/json": {"schema": _ref(schema)}}


def _json_list(schema: type) -> _Json:
    return {"application/json": {"schema": {"type": "array", "items": _ref(schema)}}}


def _text(media_type: str) -> _Json:
    return {media_type: {"schema": {"type": "string"}}}


def _response(description: str, content: _Json) -> _Json:
    return {"description": description, "content": content}


def _error(description: str) -> _Json:
    return _response(description, _json(views.Error))
