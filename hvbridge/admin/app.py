"""The admin endpoint as an ASGI application: its routes.

An error in one request affects only that request. `openapi` describes the same routes; a test compares them.
"""

import base64
import hashlib
import logging
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hvbridge.address.endpoint import Endpoint
from hvbridge.admin import metrics
from hvbridge.admin import schemas as views
from hvbridge.admin.auth import AuthMiddleware, json_response
from hvbridge.admin.http import is_peer_gone
from hvbridge.admin.openapi import document
from hvbridge.admin.sse import EventStream, Snapshots
from hvbridge.admin.stats import MAX_SUBSCRIBERS, Statistics, TooManySubscribersError
from hvbridge.proxy.control import BridgeControl, ReloadError
from hvbridge.text import quote

logger = logging.getLogger(__name__)

_MAX_DIGITS = 19
"""Digits of a connection id: no process has more connections."""


def build_app(
    control: BridgeControl,
    stats: Statistics,
    listen: Endpoint,
    token: str | None,
    stopping: trio.Event,
) -> ASGIApp:
    """Return the application. Event streams end when ``stopping`` is set; all other responses end by themselves."""
    api = Api(
        control,
        stats,
        metrics.Metrics(control, stats),
        Snapshots(control, stats),
        stopping,
        shows_all=token is None,
    )
    app = Starlette(
        routes=routes(api),
        exception_handlers={HTTPException: _error_response, TooManySubscribersError: _too_many_response},
    )
    app.router.redirect_slashes = False
    return ErrorBoundary(AuthMiddleware(app, listen, token))


def routes(api: "Api") -> list[Route]:
    """Return every route. GET routes also answer HEAD."""
    v1 = "/api/v1"
    return [
        Route("/", api.page),
        Route("/livez", api.livez),
        Route("/readyz", api.readyz),
        Route("/metrics", api.metrics_text),
        Route("/openapi.json", api.openapi),
        Route(f"{v1}/status", api.status),
        Route(f"{v1}/forwards", api.list_forwards),
        Route(f"{v1}/forwards/{{name}}/drain", api.drain, methods=["POST"]),
        Route(f"{v1}/connections", api.list_connections),
        Route(f"{v1}/connections/{{id}}", api.close, methods=["DELETE"]),
        Route(f"{v1}/closings", api.list_closings),
        Route(f"{v1}/reload", api.reload, methods=["POST"]),
        Route(f"{v1}/events", api.events),
    ]


@dataclass(frozen=True)
class Api:
    """The handlers of the routes."""

    control: BridgeControl
    stats: Statistics
    metrics: metrics.Metrics
    snapshots: Snapshots
    stopping: trio.Event
    shows_all: bool
    """Whether unauthenticated requests may see everything."""

    async def page(self, _: Request) -> Response:
        text, policy = load_page()
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})

    async def livez(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(self, _: Request) -> Response:
        readiness = views.readiness(self.control, with_reasons=self.shows_all)
        return json_response(readiness, 200 if readiness.ready else 503)

    async def metrics_text(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        return json_response(document())

    async def status(self, _: Request) -> Response:
        return json_response(views.status(self.control, self.stats))

    async def list_forwards(self, _: Request) -> Response:
        connections = self.control.connections()
        return json_response(views.forward_views(self.control, self.stats, connections))

    async def drain(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self.control.drain(name):
            raise _no_forward(name)
        return Response(status_code=204)

    async def list_connections(self, request: Request) -> Response:
        name = request.query_params.get("forward")
        if name is not None and name not in {forward.name for forward in self.control.forwards()}:
            raise _no_forward(name)
        return json_response(self.control.connections(name))

    async def close(self, request: Request) -> Response:
        text = request.path_params["id"]
        is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
        if not is_number or not self.control.close(int(text)):
            raise HTTPException(404, f"there is no open connection {quote(text)}; it may already have closed")
        return Response(status_code=204)

    async def list_closings(self, _: Request) -> Response:
        return json_response(self.stats.recent())

    async def reload(self, _: Request) -> Response:
        try:
            return json_response(views.Reloaded(await self.control.reload()))
        except ReloadError as error:
            return json_response(views.Faults(error.faults), 422)

    async def events(self, _: Request) -> Response:
        return EventStream(self.snapshots, self.stats, self.stopping)


class ErrorBoundary:
    """Logs an exception of one request, and ends only that request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # one request's bug must not end the bridge
            if is_peer_gone(error):
                raise
            logger.exception("admin request failed: %s %s: %r", scope.get("method"), scope.get("path"), error)
            if not started:
                await json_response(views.Error("internal error in hvbridge; see its log"), 500)(
                    scope, receive, send
                )


def _no_forward(name: str) -> HTTPException:
    return HTTPException(404, f"there is no forward {quote(name)}; see /api/v1/forwards for the names")


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = None if error.headers is None else dict(error.headers)
    return json_response(views.Error(error.detail), error.status_code, headers)


async def _too_many_response(_: Request, __: Exception) -> Response:
    why = f"{MAX_SUBSCRIBERS} event readers are already connected; close one, or read /api/v1/status instead"
    return json_response(views.Error(why), 503)


@cache
def load_page() -> tuple[str, str]:
    """Return the page, and the policy that restricts the browser to its own script and style."""
    text = resources.files("hvbridge.admin").joinpath("page.html").read_text(encoding="utf-8")
    scripts, styles = (_hashes(element, text) for element in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hashes(element: str, text: str) -> str:
    found = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", text, re.DOTALL)
    digests = (hashlib.sha256(inner.encode("utf-8")).digest() for inner in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
