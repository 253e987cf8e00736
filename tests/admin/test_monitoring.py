"""The dashboard and the alert rules that come with hvbridge speak of metrics and labels that there are."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hvbridge.proxy.events import ConnectionClosed

from .support import Admin, record

CONFIGS = Path(__file__).parents[2] / "configs"
DASHBOARD = CONFIGS / "grafana-dashboard.json"
ALERTS = CONFIGS / "prometheus-alerts.yml"

OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus gives to all that it scrapes."""
_STRING = re.compile(r'"[^"]*"')


class Expression(NamedTuple):
    """A query, where it stands, and what is written out of its result."""

    where: str
    text: str
    shown: str


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def of_dashboard() -> Iterator[Expression]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield Expression(panel["title"], target["expr"], target["legendFormat"])


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="no PyYAML here")
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def of_alerts() -> list[Expression]:
    """The alerts, read by their lines, for which no parser of YAML is needed."""
    parts = re.split(r"^ +- alert: (\w+)\n", ALERTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        Expression(name, re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)[0], text)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


every_expression = pytest.mark.parametrize(
    "expression", [*of_dashboard(), *of_alerts()], ids=lambda expression: expression.where
)


@pytest.fixture
async def series() -> dict[str, list[dict[str, str]]]:
    """Every series that a bridge has, as the labels of each by the names of metrics; and Prometheus' own."""
    admin = Admin()
    admin.stats.on_event(ConnectionClosed(record()))
    text = (await admin.ask("GET", "/metrics")).body.decode()
    found: dict[str, list[dict[str, str]]] = {"up": [{"job": "hvbridge"}]}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def selectors(text: str) -> list[tuple[str, dict[str, str]]]:
    """The metrics in a query, each with its labels and what they must be."""
    found = re.findall(r"\b(hvbridge_\w+|up)\b(?:\{([^}]*)\})?", text)
    assert found, text
    return [(name, dict(re.findall(r'(\w+) ?(?:=~|=|!=|!~) ?"([^"]*)"', labels))) for name, labels in found]


def labels_of(text: str, series: dict[str, list[dict[str, str]]]) -> set[str]:
    """The labels that the result of a query has."""
    grouped = re.findall(r"\bby \(([^)]*)\)", text)
    if grouped:
        return {label.strip() for labels in grouped for label in labels.split(",")}
    return OF_PROMETHEUS.union(*(series[name][0] for name, _ in selectors(text)))


@every_expression
async def test_metrics_and_labels_exist(
    expression: Expression, series: dict[str, list[dict[str, str]]]
) -> None:
    """Every metric in a query is one of a bridge's, with the labels that are asked for, and values that occur."""
    for name, wanted in selectors(expression.text):
        assert name in series
        known = series[name]
        assert wanted.keys() <= OF_PROMETHEUS | known[0].keys()
        for label, value in wanted.items():
            if "$" not in value:
                assert value in {labels[label] for labels in known}
    every = OF_PROMETHEUS.union(*(series[name][0] for name, _ in selectors(expression.text)))
    assert labels_of(expression.text, series) <= every


@every_expression
async def test_what_is_written_out_is_in_the_result(
    expression: Expression, series: dict[str, list[dict[str, str]]]
) -> None:
    """A legend, and the text of an alert, name labels that the result of the query still has."""
    shown = set(re.findall(r"\{\{(\w+)\}\}|\$labels\.(\w+)", expression.shown))
    assert {one or other for one, other in shown} <= labels_of(expression.text, series)


@every_expression
def test_brackets_are_balanced(expression: Expression) -> None:
    """Every bracket in a query is closed, in the right order."""
    opened = []
    for character in _STRING.sub("", expression.text):
        if character in "([{":
            opened.append(character)
        elif character in ")]}":
            assert opened
            assert opened.pop() + character in ("()", "[]", "{}")
    assert not opened


async def test_the_dashboard_shows_every_metric(series: dict[str, list[dict[str, str]]]) -> None:
    """No metric of a bridge is missing in the dashboard; a histogram is shown by its buckets."""
    used = {name for expression in of_dashboard() for name, _ in selectors(expression.text)}
    aside = {"up", "hvbridge_dial_seconds_sum", "hvbridge_dial_seconds_count"}
    assert used == series.keys() - aside


async def test_the_variables_of_the_dashboard_exist(series: dict[str, list[dict[str, str]]]) -> None:
    """A variable takes its values from a label that there is, and no query uses a variable that there is not."""
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    for variable in variables.values():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+).*, (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert label in OF_PROMETHEUS | series[metric][0].keys()
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text(encoding="utf-8")))
    assert used <= variables.keys() | {"__rate_interval", "__range", "__all"}


def test_the_dashboard_is_one_that_grafana_10_takes() -> None:
    """Its schema is that of Grafana 10, every panel has a place of its own, and asks the chosen data source."""
    found = dashboard()
    assert found["schemaVersion"] == 39
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells
        taken |= cells
        for source in [panel, *panel.get("targets", ())]:
            if panel["type"] != "row":
                assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_alerts_are_yaml() -> None:
    """Each alert has a name of its own, a query, a severity, and words for a person."""
    found = rules()
    assert [rule["alert"] for rule in found] == [expression.where for expression in of_alerts()]
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule, expression in zip(found, of_alerts(), strict=True):
        assert rule["expr"] == expression.text
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (package prometheus)")
def test_prometheus_takes_the_alerts() -> None:
    """Prometheus' own tool has nothing to say against the alert rules."""
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_how_to_has_every_metric_and_alert(series: dict[str, list[dict[str, str]]]) -> None:
    """The page on monitoring lists each metric with its labels, and each alert, and no other."""
    page = (CONFIGS.parent / "docs" / "how-to" / "monitor-with-prometheus.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    names = [row[0].strip("| `") for row in rows]
    assert [name for name in names if name[0] == "H"] == [expression.where for expression in of_alerts()]
    metrics = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in zip(names, rows, strict=True)}
    expected = {
        name.removesuffix("_count"): set(labels[0])
        for name, labels in series.items()
        if not name.endswith(("_bucket", "_sum")) and name != "up"
    }
    assert {name: labels for name, labels in metrics.items() if name[0] == "h"} == expected
