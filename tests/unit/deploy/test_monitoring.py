"""Tests that Kubernetes scales and alerts by metrics that the server has."""

import importlib.util
import re

import pytest
import yaml
from manifests import DEPLOY

from imagemint.server.telemetry.metrics import Metrics

ADAPTER = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())
RULES = ADAPTER["rules"]["custom"]
AUTOSCALER = yaml.safe_load(
    (DEPLOY / "kubernetes/components/autoscaling/autoscaler.yaml").read_text()
)


@pytest.fixture
def script():
    """The script that writes the PrometheusRule."""
    path = DEPLOY.parent / "scripts/prometheus_rule.py"
    spec = importlib.util.spec_from_file_location("prometheus_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rule_is_up_to_date(script):
    """The committed PrometheusRule equals the output of scripts/prometheus_rule.py."""
    assert script.RULE.read_text() == script.format_rule(script.ALERTS.read_text())


def test_rule_has_the_groups_of_the_alerts(script):
    """Read as YAML, both files have the same groups, expressions and texts."""
    rule = yaml.safe_load(script.RULE.read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load(script.ALERTS.read_text())


def test_adapter_has_the_metrics_of_the_autoscaler():
    """Each metric of the autoscaler has one rule, and no rule is unused."""
    read = [metric["pods"]["metric"]["name"] for metric in AUTOSCALER["spec"]["metrics"]]
    assert read == [rule["name"]["as"] for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"]["as"])
def test_adapter_reads_existing_gauges(rule):
    """The series and labels of each rule are those of a gauge of the server."""
    series = re.match(r"\w+", rule["seriesQuery"])[0]
    (family,) = (each for each in Metrics().registry.collect() if each.name == series)
    assert family.type == "gauge"
    labels = set(re.findall(r",(\w+)[!=]", rule["metricsQuery"]))
    gauges = {"imagemint_queue_images": "queue_images", "imagemint_inflight_requests": "inflight"}
    assert labels <= set(getattr(Metrics(), gauges[series])._labelnames)


def test_scale_down_waits_for_new_connections():
    """The autoscaler waits longer than the maximum age of connections."""
    deployment = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    window = AUTOSCALER["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > 1.1 * float(variables["IMAGEMINT_CONNECTION_AGE_S"])
