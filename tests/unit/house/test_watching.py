"""Tests that alerts, dashboard and their documentation match the server's metrics."""

import json
import re
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from imagemint.server.processes.supervisor_metrics import WorkersMetrics
from imagemint.server.telemetry.gpu import DeviceCollector
from imagemint.server.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()
DASHBOARD = (ROOT / "deploy/grafana/imagemint.json").read_text()
PANELS = json.loads(DASHBOARD)["panels"]
REFERENCE = (ROOT / "docs/reference/metrics.md").read_text()
RUNBOOK = (ROOT / "docs/runbook.md").read_text()


@pytest.fixture(scope="module")
def families():
    """The families of a scrape, by name, with the names of their samples."""
    workers = WorkersMetrics(2, lambda: None, dict)
    endings = {
        "counter": ["_total"],
        "gauge": [""],
        "histogram": ["_bucket", "_sum", "_count"],
        "info": ["_info"],
    }
    return {
        family.name: {family.name + ending for ending in endings[family.type]}
        for family in (
            *Metrics().registry.collect(),
            *workers.registry.collect(),
            *DeviceCollector(ModuleType("pynvml"), 0).collect(),
        )
        if family.name.startswith("imagemint_")
    }


@pytest.mark.parametrize("text", [ALERTS, DASHBOARD], ids=["alerts", "dashboard"])
def test_every_series_exists(text, families):
    """No alert or panel uses a series that the server does not have."""
    used = set(re.findall(r"\bimagemint_\w+", text))
    assert used
    assert used <= set().union(*families.values())


def test_dashboard_has_every_metric(families):
    """Operators can see each metric of the server without writing a query."""
    used = set(re.findall(r"\bimagemint_\w+", DASHBOARD))
    assert [name for name, samples in families.items() if not used & samples] == []


def test_page_has_every_metric(families):
    """The tables of docs/reference/metrics.md are complete and have nothing else."""
    told = set(re.findall(r"`(imagemint_\w+)", REFERENCE))
    assert all(told & ({name} | samples) for name, samples in families.items())
    assert told <= set(families).union(*families.values())


def test_every_alert_has_a_runbook_section():
    """The section that an alert names exists and names the alert."""
    alerts = re.findall(r"- alert: (\w+).*?runbook: docs/runbook\.md#([\w-]+)", ALERTS, re.DOTALL)
    assert len(alerts) == ALERTS.count("- alert:")
    sections = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", RUNBOOK, re.DOTALL | re.MULTILINE))
    by_anchor = {title.lower().replace(" ", "-"): text for title, text in sections.items()}
    assert all(f"`{alert}`" in by_anchor[anchor] for alert, anchor in alerts)


def test_panels_are_complete_and_do_not_overlap():
    """Panels have unique ids, do not overlap, and have a description."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["targets"], panel["title"]
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = any(
            low[axis] + low[size] <= high[axis]
            for axis, size in (("x", "w"), ("y", "h"))
            for low, high in ((one, other), (other, one))
        )
        assert apart, (one, other)


def test_dashboard_has_no_fixed_data_source():
    """The user selects a Prometheus at import."""
    sources = re.findall(r'"uid": "(.+)"', DASHBOARD)
    assert set(sources) == {"imagemint", "${datasource}"}
