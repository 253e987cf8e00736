"""The metrics, read by Prometheus' own parser."""

from dataclasses import replace

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hvbridge import __version__
from hvbridge.admin.stats import DIAL_BUCKETS
from hvbridge.proxy.events import AcceptPaused, ConnectionClosed, Reloaded
from hvbridge.splice import Reason

from .support import RDP, SSH, Admin, Bridge, connection, record

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

TYPES = {
    "hvbridge_build_info": "gauge",
    "hvbridge_start_time_seconds": "gauge",
    "hvbridge_log_lines_dropped_total": "counter",
    "hvbridge_event_failures_total": "counter",
    "hvbridge_reloads_total": "counter",
    "hvbridge_connections_total": "counter",
    "hvbridge_connections": "gauge",
    "hvbridge_max_connections": "gauge",
    "hvbridge_connections_closed_total": "counter",
    "hvbridge_bytes_total": "counter",
    "hvbridge_dial_seconds": "histogram",
    "hvbridge_listener_up": "gauge",
    "hvbridge_upstream_up": "gauge",
    "hvbridge_accept_pauses_total": "counter",
}


async def families(admin: Admin) -> list[Metric]:
    reply = await admin.ask("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return list(text_string_to_metric_families(reply.body.decode()))


async def samples(admin: Admin) -> Samples:
    found: Samples = {}
    for family in await families(admin):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


async def test_names_types_and_labels() -> None:
    """The metrics have the names, kinds and labels on which dashboards rely, and no others."""
    admin = Admin()
    admin.stats.on_event(ConnectionClosed(record()))
    text = (await admin.ask("GET", "/metrics")).body.decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert types == TYPES
    assert len([line for line in text.splitlines() if line.startswith("# HELP")]) == len(TYPES)
    labels = {
        sample.name: sample.labels.keys() for family in await families(admin) for sample in family.samples
    }
    assert labels == {
        "hvbridge_build_info": {"version"},
        "hvbridge_start_time_seconds": set(),
        "hvbridge_log_lines_dropped_total": set(),
        "hvbridge_event_failures_total": set(),
        "hvbridge_reloads_total": {"result"},
        "hvbridge_connections_total": {"forward"},
        "hvbridge_connections": {"forward"},
        "hvbridge_max_connections": {"forward"},
        "hvbridge_connections_closed_total": {"forward", "reason"},
        "hvbridge_bytes_total": {"forward", "direction"},
        "hvbridge_dial_seconds_bucket": {"forward", "le"},
        "hvbridge_dial_seconds_count": {"forward"},
        "hvbridge_dial_seconds_sum": {"forward"},
        "hvbridge_listener_up": {"forward"},
        "hvbridge_upstream_up": {"forward"},
        "hvbridge_accept_pauses_total": {"forward"},
    }


async def test_values() -> None:
    """What has happened is counted where it belongs."""
    admin = Admin(bridge=Bridge(live=[connection(7)]))
    stats = admin.stats
    stats.on_event(ConnectionClosed(record(dial_seconds=0.02)))
    stats.on_event(ConnectionClosed(record(dial_seconds=3.0)))
    stats.on_event(ConnectionClosed(record(reason=Reason.DIAL_FAILED, up=0, down=0, dial_seconds=None)))
    stats.on_event(AcceptPaused("ssh", OSError()))
    stats.on_event(Reloaded("no change"))
    found = await samples(admin)
    ssh = ("forward", "ssh")
    assert found["hvbridge_build_info", (("version", __version__),)] == 1
    assert found["hvbridge_start_time_seconds", ()] == stats.started.timestamp()
    assert found["hvbridge_reloads_total", (("result", "ok"),)] == 1
    assert found["hvbridge_reloads_total", (("result", "failed"),)] == 0
    assert found["hvbridge_connections_total", (ssh,)] == 4
    assert found["hvbridge_connections", (ssh,)] == 1
    assert found["hvbridge_connections_closed_total", (ssh, ("reason", "eof"))] == 2
    assert found["hvbridge_connections_closed_total", (ssh, ("reason", "dial failed"))] == 1
    assert found["hvbridge_bytes_total", (("direction", "client_to_upstream"), ssh)] == 120
    assert found["hvbridge_bytes_total", (("direction", "upstream_to_client"), ssh)] == 240
    assert found["hvbridge_dial_seconds_bucket", (ssh, ("le", "0.01"))] == 0
    assert found["hvbridge_dial_seconds_bucket", (ssh, ("le", "0.025"))] == 1
    assert found["hvbridge_dial_seconds_bucket", (ssh, ("le", "5.0"))] == 2
    assert found["hvbridge_dial_seconds_bucket", (ssh, ("le", "+Inf"))] == 2
    assert found["hvbridge_dial_seconds_count", (ssh,)] == 2
    assert found["hvbridge_dial_seconds_sum", (ssh,)] == 3.02
    assert found["hvbridge_listener_up", (ssh,)] == 1
    assert found["hvbridge_upstream_up", (ssh,)] == 1
    assert found["hvbridge_accept_pauses_total", (ssh,)] == 1


async def test_states() -> None:
    """A forward that drains has no listener; an upstream of which nothing is known has no value."""
    states = [replace(SSH, state="draining", upstream="down", upstream_cause="no"), RDP]
    found = await samples(Admin(bridge=Bridge(states=states)))
    assert found["hvbridge_listener_up", (("forward", "ssh"),)] == 0
    assert found["hvbridge_upstream_up", (("forward", "ssh"),)] == 0
    assert found["hvbridge_listener_up", (("forward", "rdp"),)] == 1
    assert ("hvbridge_upstream_up", (("forward", "rdp"),)) not in found


async def test_labels_are_bounded() -> None:
    """However many clients come, whatever they are called and however they end, there is not one series more."""
    admin = Admin()
    admin.stats.on_event(ConnectionClosed(record()))
    before = set(await samples(admin))
    for number in range(500):
        for reason in Reason:
            admin.stats.on_event(ConnectionClosed(record(reason=reason, detail=f"detail {number}")))
    after = await samples(admin)
    assert set(after) == before
    reasons = {labels["reason"] for labels in (dict(key[1]) for key in after) if "reason" in labels}
    assert reasons == {str(reason) for reason in Reason}
    per_forward = len(Reason) + len(DIAL_BUCKETS) + 11
    assert len(after) <= 6 + 2 * per_forward


async def test_series_of_removed_forwards_end() -> None:
    """A forward that a reload has removed is in the metrics no more; if it comes back, it counts on."""
    admin = Admin()
    admin.stats.on_event(ConnectionClosed(record("ssh")))
    admin.bridge.states = [RDP]
    assert not [key for key in await samples(admin) if ("forward", "ssh") in key[1]]
    admin.bridge.states, admin.bridge.live = [replace(SSH, connections=0)], []
    assert (await samples(admin))["hvbridge_connections_total", (("forward", "ssh"),)] == 1


async def test_connections_of_a_listener_that_has_moved_count() -> None:
    """Connections that live on from before a reload count, though they are no longer the forward's own."""
    moved = replace(SSH, connections=0)
    found = await samples(Admin(bridge=Bridge(states=[moved], live=[connection(7)])))
    assert found["hvbridge_connections_total", (("forward", "ssh"),)] == 1
    assert found["hvbridge_bytes_total", (("direction", "client_to_upstream"), ("forward", "ssh"))] == 100


async def test_counters_never_fall_when_a_connection_closes() -> None:
    """A connection's bytes count the same while it is live and after, and it counts once."""
    admin = Admin(bridge=Bridge(states=[SSH], live=[connection(7)]))
    before = await samples(admin)
    admin.bridge.live, admin.bridge.states = [], [replace(SSH, connections=0)]
    admin.stats.on_event(ConnectionClosed(record("ssh", up=100, down=200)))
    after = await samples(admin)
    for key in before:
        if key[0] in ("hvbridge_bytes_total", "hvbridge_connections_total"):
            assert after[key] == before[key]
