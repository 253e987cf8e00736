"""What each route shows and does, without sockets."""

import base64
import hashlib
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hvbridge import __version__
from hvbridge.proxy.control import ForwardState
from hvbridge.proxy.events import ConnectionClosed
from hvbridge.splice import Reason

from .support import RDP, SSH, TCP, TOKEN, UNIX, Admin, Bridge, connection, record

V1 = "/api/v1"


async def test_livez_answers() -> None:
    """A process that lives says so, in a word."""
    reply = await Admin(bridge=Bridge(ready=False)).ask("GET", "/livez")
    assert (reply.status, reply.body) == (200, b"ok")


@pytest.mark.parametrize(
    ("states", "reasons"),
    [
        (
            [SSH, replace(RDP, upstream="down", upstream_cause="no", health="failing")],
            {"rdp": "the upstream is down: no"},
        ),
        ([replace(SSH, state="draining"), RDP], {"ssh": "the forward is draining"}),
        ([SSH, replace(RDP, health="failing")], {"rdp": "the upstream has not been checked yet"}),
    ],
    ids=["down", "draining", "unchecked"],
)
async def test_readyz_says_what_is_missing(states: list[ForwardState], reasons: dict[str, str]) -> None:
    """A bridge that is not ready answers 503, and which forwards it waits for, and why."""
    reply = await Admin(bridge=Bridge(ready=False, states=states)).ask("GET", "/readyz")
    assert (reply.status, reply.json) == (503, {"ready": False, "forwards": reasons})


async def test_readyz_of_a_bridge_that_is_ready() -> None:
    """An upstream that nobody has asked to be checked does not keep a bridge from being ready."""
    down = replace(SSH, upstream="down", upstream_cause="no")
    reply = await Admin(bridge=Bridge(states=[down])).ask("GET", "/readyz")
    assert (reply.status, reply.json) == (200, {"ready": True, "forwards": {}})


async def test_readyz_tells_strangers_nothing_more() -> None:
    """Where a token is set, readiness can be asked for without it, as probes do, but not the names of forwards."""
    failing = replace(RDP, health="failing")
    admin = Admin(TCP, TOKEN, bridge=Bridge(ready=False, states=[failing]))
    reply = await admin.ask("GET", "/readyz")
    assert (reply.status, reply.json) == (503, {"ready": False, "forwards": {}})


async def test_status() -> None:
    """The status has the version, and since when it runs."""
    reply = await Admin().ask("GET", f"{V1}/status")
    started = datetime.fromisoformat(reply.json["started"])
    assert timedelta(0) <= datetime.now(UTC) - started < timedelta(minutes=1)
    assert reply.json["started"].endswith("Z")
    assert 0 <= reply.json["uptime_seconds"] < 60
    assert (reply.json["version"], reply.json["ready"]) == (__version__, True)


async def test_forwards_have_totals_of_closed_and_live_connections() -> None:
    """A forward's bytes and connections are those of the closed and of the live ones together."""
    admin = Admin(bridge=Bridge(live=[connection(7), connection(8, "rdp", client_to_upstream=5)]))
    admin.stats.on_event(ConnectionClosed(record("ssh")))
    admin.stats.on_event(ConnectionClosed(record("ssh", Reason.REFUSED, up=0, down=0)))
    admin.stats.on_event(ConnectionClosed(record("ssh", Reason.DIAL_FAILED, up=0, down=0)))
    ssh, rdp = (await admin.ask("GET", f"{V1}/forwards")).json
    assert ssh == {
        "name": "ssh",
        "listen": ["tcp://127.0.0.1:2222"],
        "connect": "hyperv://dev-box/ssh",
        "state": "listening",
        "upstream": "up",
        "upstream_cause": "",
        "health": "",
        "connections": 1,
        "max_connections": 1024,
        "accepted": 4,
        "refused": 1,
        "dial_failed": 1,
        "client_to_upstream": 110,
        "upstream_to_client": 220,
    }
    assert (rdp["name"], rdp["accepted"], rdp["client_to_upstream"]) == ("rdp", 1, 5)


async def test_connections() -> None:
    """Open connections are shown with their bytes so far: all, or those of a forward."""
    admin = Admin(bridge=Bridge(live=[connection(7), connection(8, "rdp")]))
    everything = (await admin.ask("GET", f"{V1}/connections")).json
    assert [state["id"] for state in everything] == [7, 8]
    assert everything[0] == {
        "id": 7,
        "forward": "ssh",
        "peer": "127.0.0.1:50000",
        "upstream": "hyperv://dev-box/ssh",
        "state": "open",
        "seconds": 1.5,
        "client_to_upstream": 100,
        "upstream_to_client": 200,
    }
    assert [state["id"] for state in (await admin.ask("GET", f"{V1}/connections?forward=rdp")).json] == [8]
    reply = await admin.ask("GET", f"{V1}/connections?forward=web")
    assert reply.status == 404
    assert reply.json["error"].startswith('there is no forward "web"')


async def test_closings_are_newest_first() -> None:
    """Recent closings are complete, and the newest comes first."""
    admin = Admin()
    first = record(seconds=2.5)
    admin.stats.on_event(ConnectionClosed(first))
    admin.stats.on_event(
        ConnectionClosed(record("rdp", Reason.DIAL_FAILED, dial_seconds=None, detail="nobody answers"))
    )
    newest, oldest = (await admin.ask("GET", f"{V1}/closings")).json
    assert (newest["forward"], newest["dial_seconds"], newest["detail"]) == ("rdp", None, "nobody answers")
    closed_at = datetime.fromisoformat(oldest.pop("closed_at"))
    assert timedelta(0) <= datetime.now(UTC) - closed_at < timedelta(minutes=1)
    assert oldest == {
        "id": first.id,
        "forward": "ssh",
        "peer": "127.0.0.1:50000",
        "upstream": "hyperv://any/ssh",
        "seconds": 2.5,
        "dial_seconds": 0.02,
        "client_to_upstream": 10,
        "upstream_to_client": 20,
        "reason": "eof",
        "detail": "",
    }


async def test_texts_of_any_kind_can_be_shown() -> None:
    """A detail with bytes that are no text, as paths and error messages may have them, breaks no answer."""
    admin = Admin()
    admin.stats.on_event(ConnectionClosed(record(detail="no \udcff such ✓ file\n")))
    reply = await admin.ask("GET", f"{V1}/closings")
    assert reply.json[0]["detail"] == "no \udcff such ✓ file\n"


async def test_closing_a_connection() -> None:
    """An open connection is closed; of one that is not there, it is said that there is none."""
    admin = Admin(UNIX)
    reply = await admin.ask("DELETE", f"{V1}/connections/7")
    assert (reply.status, reply.body) == (204, b"")
    assert admin.bridge.done == ["close 7"]


@pytest.mark.parametrize("text", ["8", "x", "-7", "7.0", "\u0667", "9" * 5000, " 7", "0x7"])
async def test_closing_no_connection(text: str) -> None:
    """What is no number, or too long for one, is no connection either."""
    admin = Admin(UNIX)
    reply = await admin.ask("DELETE", f"{V1}/connections/{text}")
    assert reply.status == 404
    assert "there is no open connection" in reply.json["error"]
    assert len(reply.body) < 500
    assert admin.bridge.done == []


async def test_draining_a_forward() -> None:
    """A forward is drained by its name."""
    admin = Admin(UNIX)
    assert (await admin.ask("POST", f"{V1}/forwards/ssh/drain")).status == 204
    assert (await admin.ask("POST", f"{V1}/forwards/web/drain")).status == 404
    assert admin.bridge.done == ["drain ssh"]


async def test_reloading() -> None:
    """A reload says what changed, or all that is wrong."""
    admin = Admin(UNIX)
    reply = await admin.ask("POST", f"{V1}/reload")
    assert (reply.status, reply.json) == (200, {"changed": "nothing"})
    admin.bridge.faults = ["line 1: no", "line 2: nor that"]
    reply = await admin.ask("POST", f"{V1}/reload")
    assert (reply.status, reply.json) == (422, {"faults": ["line 1: no", "line 2: nor that"]})


@pytest.mark.parametrize(
    "target", ["/nothing", "/api/v1", "/api/v2/status", "/api/v1/status/", "//", "/%2e%2e"]
)
async def test_what_is_not_there(target: str) -> None:
    """An unknown path is told as JSON, as every other error."""
    reply = await Admin().ask("GET", target)
    assert (reply.status, reply.json) == (404, {"error": "Not Found"})


async def test_what_cannot_be_done() -> None:
    """A method that a route does not have is refused with those that it has."""
    reply = await Admin(UNIX).ask("PUT", f"{V1}/status")
    assert reply.status == 405
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert reply.json == {"error": "Method Not Allowed"}
    assert (await Admin(UNIX).ask("GET", f"{V1}/reload")).status == 405


async def test_a_fault_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    """A bug that a request meets is logged with the request, told without details, and raised no further."""

    class Broken(Bridge):
        def forwards(self) -> list[ForwardState]:
            raise ZeroDivisionError("a secret")

    admin = Admin(bridge=Broken())
    with caplog.at_level(logging.ERROR):
        reply = await admin.ask("GET", f"{V1}/forwards")
    assert reply.status == 500
    assert "secret" not in reply.body.decode()
    assert "admin request failed: GET /api/v1/forwards: ZeroDivisionError('a secret')" in caplog.messages


async def test_the_page_may_run_its_own_code_only() -> None:
    """The policy names the page's script and style by their hashes, and allows nothing else, and no other host."""
    reply = await Admin().ask("GET", "/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        directive.strip().split(" ", 1) for directive in reply.headers["content-security-policy"].split(";")
    )
    text = reply.body.decode()
    for element in ("script", "style"):
        inner = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inner]
        assert policy[f"{element}-src"].split() == [f"'sha256-{digest}'" for digest in hashes]
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert "http:" not in reply.headers["content-security-policy"]
