"""The metrics of a bridge, in the Prometheus text format.

Dashboards rely on the names and labels. Labels have few values: forward names and fixed words. The totals are read
from `stats` at each scrape, so that metrics cost connections nothing, and match the API.
"""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hvbridge import __version__
from hvbridge.admin.schemas import forward_views
from hvbridge.admin.stats import DIAL_BUCKETS, Statistics
from hvbridge.proxy.control import BridgeControl
from hvbridge.splice import Reason

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BOUNDS = [*map(str, DIAL_BUCKETS), "+Inf"]


class Metrics(Collector):
    """Collects the metrics of one bridge, in a registry of its own."""

    def __init__(self, control: BridgeControl, stats: Statistics) -> None:
        self._control = control
        self._stats = stats
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the current values of all metrics."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        build = GaugeMetricFamily("hvbridge_build_info", "The running version; always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield GaugeMetricFamily(
            "hvbridge_start_time_seconds",
            "When the bridge started, in Unix time.",
            self._stats.started.timestamp(),
        )
        reloads = CounterMetricFamily("hvbridge_reloads", "Reloads of the config.", labels=["result"])
        reloads.add_metric(["ok"], self._stats.reloads[True])
        reloads.add_metric(["failed"], self._stats.reloads[False])
        yield reloads
        losses = self._control.losses()
        yield CounterMetricFamily(
            "hvbridge_log_lines_dropped",
            "Lines that the log has lost: it could not be written, or its reader was too slow.",
            losses.log_lines,
        )
        yield CounterMetricFamily(
            "hvbridge_event_failures",
            "Events that could not be logged or counted, by a bug in hvbridge.",
            losses.events,
        )
        yield from self._of_forwards()

    def _of_forwards(self) -> Iterator[Metric]:
        label = ["forward"]
        accepted = CounterMetricFamily(
            "hvbridge_connections", "Connections accepted, including those that were refused.", labels=label
        )
        live = GaugeMetricFamily("hvbridge_connections", "Open connections.", labels=label)
        most = GaugeMetricFamily(
            "hvbridge_max_connections", "The most connections that the forward allows at once.", labels=label
        )
        closed = CounterMetricFamily(
            "hvbridge_connections_closed",
            "Closed connections, by reason.",
            labels=[*label, "reason"],
        )
        moved = CounterMetricFamily(
            "hvbridge_bytes", "Bytes received from the side that sent them.", labels=[*label, "direction"]
        )
        dials = HistogramMetricFamily(
            "hvbridge_dial_seconds",
            "How long it took to reach the upstream, including waiting; counted when the connection closes.",
            labels=label,
        )
        listening = GaugeMetricFamily(
            "hvbridge_listener_up", "1 while the forward listens, 0 while it drains.", labels=label
        )
        upstream = GaugeMetricFamily(
            "hvbridge_upstream_up", "1 if the last attempt reached the upstream, 0 if not.", labels=label
        )
        pauses = CounterMetricFamily(
            "hvbridge_accept_pauses",
            "Times that accepting paused because descriptors or memory ran out.",
            labels=label,
        )
        views = forward_views(self._control, self._stats, self._control.connections())
        for view in views:
            totals = self._stats.totals[view.name]
            name = [view.name]
            accepted.add_metric(name, view.accepted)
            live.add_metric(name, view.connections)
            most.add_metric(name, view.max_connections)
            for reason in Reason:
                closed.add_metric([view.name, str(reason)], totals.reasons[reason])
            moved.add_metric([view.name, "client_to_upstream"], view.client_to_upstream)
            moved.add_metric([view.name, "upstream_to_client"], view.upstream_to_client)
            dials.add_metric(
                name, list(zip(_BOUNDS, accumulate(totals.dials), strict=True)), totals.dial_seconds
            )
            listening.add_metric(name, view.state == "listening")
            if view.upstream != "unknown":
                upstream.add_metric(name, view.upstream == "up")
            pauses.add_metric(name, totals.accept_pauses)
        yield from (accepted, live, most, closed, moved, dials, listening, upstream, pauses)
