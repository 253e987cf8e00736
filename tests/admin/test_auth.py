"""Who may ask for what: browsers led here by other sites, programs without the token, and who may."""

import hmac

import pytest
from starlette.types import Message

from hvbridge.address.endpoint import Endpoint, parse_endpoint

from .support import TCP, TOKEN, UNIX, Admin

LOOKS = [
    "/",
    "/metrics",
    "/openapi.json",
    "/api/v1/status",
    "/api/v1/forwards",
    "/api/v1/connections",
]
CHANGES = [
    ("POST", "/api/v1/reload"),
    ("POST", "/api/v1/forwards/ssh/drain"),
    ("DELETE", "/api/v1/connections/7"),
]
BEARER = {"Authorization": f"Bearer {TOKEN}"}

each_change = pytest.mark.parametrize(("method", "target"), CHANGES)


# Host.


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("tcp://127.0.0.1:9180", "127.0.0.1:9180"),
        ("tcp://127.0.0.1:9180", "LOCALHOST"),
        ("tcp://127.0.0.1:9180", "localhost:8000"),  # as a port that ssh forwards is called
        ("tcp://127.0.0.1:9180", "[::1]:9180"),
        ("tcp://192.0.2.1:9180", "192.0.2.1:9180"),
        ("tcp://192.0.2.1:9180", "127.0.0.1"),
        ("tcp://admin.example:9180", "admin.example:9180"),
        ("tcp://[2001:db8::1]:9180", "[2001:DB8:0::1]:9180"),
        ("tcp://0.0.0.0:9180", "192.0.2.7:9180"),
        ("tcp://[::]:9180", "[2001:db8::7]"),
        ("unix:///run/hvbridge/admin.sock", "localhost"),
    ],
)
async def test_it_answers_to_its_own_names(listen: str, host: str) -> None:
    """Loopback names and the listen address are the endpoint's own, with whatever port."""
    reply = await Admin(parse_endpoint(listen)).ask("GET", "/livez", {"Host": host})
    assert reply.status == 200


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("tcp://127.0.0.1:9180", "evil.example:9180"),  # DNS rebinding
        ("tcp://127.0.0.1:9180", "localhost.evil.example"),
        ("tcp://127.0.0.1:9180", "127.0.0.1.evil.example"),
        ("tcp://127.0.0.1:9180", "127.0.0.1@evil.example"),
        ("tcp://127.0.0.1:9180", "192.0.2.1"),
        ("tcp://127.0.0.1:9180", "localhost:9180:80"),
        ("tcp://127.0.0.1:9180", "[::1"),
        ("tcp://127.0.0.1:9180", "2130706433"),
        ("tcp://192.0.2.1:9180", "192.0.2.2"),
        ("tcp://0.0.0.0:9180", "evil.example"),
        ("unix:///run/hvbridge/admin.sock", "evil.example"),
    ],
)
async def test_it_answers_to_no_other_name(listen: str, host: str) -> None:
    """A page whose name an attacker has led to this address gets nothing, not even over a forwarded Unix socket."""
    admin = Admin(parse_endpoint(listen))
    for method, target in [*(("GET", look) for look in [*LOOKS, "/livez"]), *CHANGES]:
        reply = await admin.ask(method, target, {"Host": host})
        assert reply.status == 421
        assert "does not answer to" in reply.json["error"]
    assert admin.bridge.done == []


async def test_a_request_without_a_host_is_refused() -> None:
    """A request that does not say whom it means is refused."""
    assert (await Admin().ask("GET", "/livez", {"Host": ""})).status == 400


# The token.


async def test_without_a_token_everyone_may_look() -> None:
    """Where no token is set, whoever reaches the endpoint may look."""
    for look in LOOKS:
        assert (await Admin().ask("GET", look)).status == 200


@pytest.mark.parametrize("listen", [TCP, UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer ÿ"},
    ],
    ids=str,
)
async def test_a_wrong_token_is_refused(listen: Endpoint, header: dict[str, str]) -> None:
    """Where a token is set, nothing is told or done without it, on any kind of socket."""
    admin = Admin(listen, TOKEN)
    for method, target in [*(("GET", look) for look in LOOKS if look != "/"), *CHANGES]:
        reply = await admin.ask(method, target, header)
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in reply.json["error"]
        assert TOKEN not in reply.body.decode()
    assert admin.bridge.done == []


async def test_the_right_token_opens() -> None:
    """With the token, everything may be looked at and changed."""
    admin = Admin(TCP, TOKEN)
    for look in LOOKS:
        assert (await admin.ask("GET", look, BEARER)).status == 200
    for method, target in CHANGES:
        assert (await admin.ask(method, target, BEARER)).status in (200, 204)
    assert admin.bridge.done == ["reload", "drain ssh", "close 7"]


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/"])
async def test_what_tells_nothing_needs_no_token(target: str) -> None:
    """A liveness probe needs no token, nor does the page, which must be there to ask for it."""
    admin = Admin(TCP, TOKEN)
    assert (await admin.ask("GET", target)).status == 200
    assert (await admin.ask("HEAD", target)).status == 200
    assert (await admin.ask("POST", target)).status == 401


async def test_a_token_may_be_any_text() -> None:
    """A token beyond ASCII is compared byte by byte, as it was sent."""
    admin = Admin(TCP, "Schlüssel")
    sent = "Schlüssel".encode().decode("latin-1")
    assert (await admin.ask("GET", "/metrics", {"Authorization": f"bearer {sent}"})).status == 200


async def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes tells nothing of how much of a guess was right."""
    compared = []

    def compare(given: bytes, token: bytes) -> bool:
        compared.append((given, token))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert (await Admin(TCP, TOKEN).ask("GET", "/metrics", BEARER)).status == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


# Changes.


@each_change
async def test_over_tcp_changes_need_a_token(method: str, target: str) -> None:
    """On TCP every user of the machine may connect, so without a token nothing is changed, and it says what to do."""
    admin = Admin()
    reply = await admin.ask(method, target)
    assert reply.status == 403
    assert "set token_file" in reply.json["error"]
    assert admin.bridge.done == []


@each_change
async def test_over_a_unix_socket_changes_need_none(method: str, target: str) -> None:
    """Who may open the socket may change things."""
    admin = Admin(UNIX)
    assert (await admin.ask(method, target)).status in (200, 204)
    assert len(admin.bridge.done) == 1


@each_change
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of localhost is the same site
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "none", "Origin": "https://evil.example"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("listen", "token"), [(UNIX, None), (TCP, TOKEN)], ids=["unix", "tcp"])
async def test_other_sites_may_change_nothing(
    method: str, target: str, headers: dict[str, str], listen: Endpoint, token: str | None
) -> None:
    """A browser that another site makes send a request is refused, whatever else the request has."""
    admin = Admin(listen, token)
    reply = await admin.ask(method, target, headers | BEARER | {"Content-Type": "application/json"})
    assert reply.status == 403
    assert "other sites may only link" in reply.json["error"]
    assert admin.bridge.done == []


@each_change
async def test_the_page_itself_may_change_things(method: str, target: str) -> None:
    """A browser says of the page's own requests that they are of the same origin."""
    admin = Admin(TCP, TOKEN)
    own = {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:9180"}
    assert (await admin.ask(method, target, own | BEARER)).status in (200, 204)


# Headers.


@pytest.mark.parametrize("target", [*LOOKS, "/livez", "/nothing/there"])
async def test_browsers_are_kept_strict(target: str) -> None:
    """Every answer forbids guessing its type, framing, storing and referring, and none lets other origins read it."""
    for headers in ({}, {"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        reply = await Admin().ask("GET", target, headers)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert not [name for name in reply.headers if name.startswith("access-control-")]


async def test_a_preflight_gets_no_permission() -> None:
    """A browser that asks whether another site may send a change is told nothing that permits it."""
    reply = await Admin(UNIX).ask(
        "OPTIONS",
        "/api/v1/reload",
        {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert reply.status == 403
    assert not [name for name in reply.headers if name.startswith("access-control-")]


async def test_web_sockets_are_refused() -> None:
    """There are no WebSockets here, and the checks of requests cannot be passed by asking for one."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is heard")

    async def send(message: Message) -> None:
        sent.append(message)

    await Admin().app({"type": "websocket", "path": "/api/v1/events", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/events", "/metrics", "/livez", "/openapi.json"])
@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
async def test_other_sites_may_not_look_either(path: str, headers: dict[str, str]) -> None:
    """A page elsewhere cannot read an answer, but it could make a browser hold connections, and time them."""
    admin = Admin()
    assert (await admin.ask("GET", path, headers)).status == 403
    assert (await admin.ask("GET", "/", headers)).status == 200
