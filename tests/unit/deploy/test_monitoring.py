"""What Kubernetes scales and alerts by is what the server measures."""

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


def test_rule_is_fresh(script):
    """The committed PrometheusRule is what scripts/prometheus_rule.py writes."""
    assert script.RULE.read_text() == script.format_rule(script.ALERTS.read_text())


def test_rule_has_the_groups_of_the_alerts(script):
    """Read as YAML, both files have the same groups, expressions and texts."""
    rule = yaml.safe_load(script.RULE.read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load(script.ALERTS.read_text())


def test_adapter_offers_what_the_autoscaler_reads():
    """Each metric of the autoscaler has one rule, and no rule is without use."""
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


def test_pods_are_removed_after_clients_reconnected():
    """The autoscaler waits longer than the age at which connections end and clients look again."""
    deployment = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    window = AUTOSCALER["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > 1.1 * float(variables["IMAGEMINT_CONNECTION_AGE_S"])
