"""Authorization for the admin endpoint: the checks of every request, and the headers that restrict browsers.

There are three kinds of untrusted clients:

- a program of another user, over TCP: it may read if no token is set, and change nothing without one;
- a web page in a browser on this machine, under its own name (DNS rebinding): detected by the Host header;
- a web page that sends requests from another site: detected by Origin or Sec-Fetch-Site; without a CORS header, it
  cannot read an answer. A browser can reach a Unix socket, too, through a port that ssh forwards to it.
"""

import hmac
import ipaddress
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hvbridge.address.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from hvbridge.admin.schemas import Error, encode
from hvbridge.text import quote

_PAGE = "/"
_WITHOUT_TOKEN = frozenset({"/livez", "/readyz", _PAGE})
"""Paths that reveal only that the process is alive, whether it is ready, and the page, which is the same everywhere."""
_SAFE_METHODS = frozenset({"GET", "HEAD"})

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::[0-9]*)?")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a view as a response."""
    return Response(encode(value), status, headers, "application/json")


class AuthMiddleware:
    """Passes authorized requests to ``app``, and refuses the others."""

    def __init__(self, app: ASGIApp, listen: Endpoint, token: str | None) -> None:
        self._app = app
        self._is_private = isinstance(listen, UnixEndpoint)  # the socket's permissions keep other users out
        self._host = listen.host if isinstance(listen, TcpEndpoint) else ""
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return

        async def send_strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_missing(message)
            await send(message)

        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_strict)

    def _refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return _refuse(400, "the request must have exactly one Host header")
        if not self._is_own(hosts[0]):
            return _refuse(
                421,
                f"this endpoint does not answer to {quote(hosts[0])}; use localhost or its listen address",
            )
        is_safe_method = method in _SAFE_METHODS
        if not (is_safe_method and path == _PAGE) and _is_cross_site(headers, hosts[0]):
            return _refuse(403, "other sites may only link to the page here")
        if self._token is not None:
            if path in _WITHOUT_TOKEN and is_safe_method:
                return None
            if not self._is_authorized(headers):
                return _refuse(
                    401,
                    "the token is missing or wrong; send the one in token_file, as in Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": "Bearer"},
                )
        elif not is_safe_method and not self._is_private:
            return _refuse(
                403,
                "changes over TCP require a token; set token_file under [admin], or listen on a Unix socket",
            )
        return None

    def _is_own(self, host_header: str) -> bool:
        """Whether a Host header has a name of this endpoint that no other site can have."""
        match = _HOST.fullmatch(host_header)
        if match is None:
            return False
        host = match[1].lower()
        if host in ("localhost", self._host):
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        if address.is_loopback:
            return True
        if not self._host:
            return False
        try:
            own = ipaddress.ip_address(self._host)
        except ValueError:
            return False
        # If bound to all interfaces, any address may be this machine's; a rebound name is not an address.
        return own == address or own.is_unspecified

    def _is_authorized(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._token is not None
        # As bytes, because compare_digest accepts only ASCII str. Headers are decoded as Latin-1.
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("latin-1"), self._token
        )


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Whether a browser reports that the request comes from another site; other clients report nothing."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != host.lower()


def _refuse(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return json_response(Error(why), status, headers)


def _add_missing(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
