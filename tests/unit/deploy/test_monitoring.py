"""Tests that Kubernetes scales and alerts by metrics that the server has."""

import importlib.util
import json
import re

import pytest
import yaml
from manifests import DEPLOY

from imagemint.server.settings import ServeSettings
from imagemint.server.telemetry.metrics import Metrics

ADAPTER = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())
RULES = ADAPTER["rules"]["custom"]
AUTOSCALER = yaml.safe_load(
    (DEPLOY / "kubernetes/components/autoscaling/autoscaler.yaml").read_text()
)
ALERTS = (DEPLOY / "prometheus/alerts.yml").read_text()
DASHBOARD = (DEPLOY / "grafana/imagemint.json").read_text()
HEALTH_CHECKS = {"ServerLive", "ServerReady", "ModelReady"}


def list_methods():
    """Returns the names of all methods in the schemas, by service."""
    found = {}
    for path in (DEPLOY.parent / "proto/imagemint").rglob("*.proto"):
        for service, body in re.findall(
            r"^service (\w+) \{(.*?)^\}", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            found[service] = set(re.findall(r"^ +rpc (\w+)\(", body, re.MULTILINE))
    return found


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


def test_one_batch_client_does_not_scale():
    """The target of the queue is above what one dataset keeps queued, and below a full queue."""
    targets = {
        metric["pods"]["metric"]["name"]: int(metric["pods"]["target"]["averageValue"])
        for metric in AUTOSCALER["spec"]["metrics"]
    }
    measured = 928  # of `imagemint dataset` with one server
    full = ServeSettings().max_queue_images
    assert 2 * measured < targets["imagemint_queue_images"] <= full // 4


def test_adapter_asks_the_prometheus_of_the_operator():
    """The values name a Prometheus, because the default of the chart is in another namespace."""
    assert ADAPTER["prometheus"] == {
        "url": "http://prometheus-operated.monitoring.svc",
        "port": 9090,
    }
    page = (DEPLOY.parent / "docs/deployment.md").read_text()
    assert "helm repo add prometheus-community " in page
    assert "--namespace monitoring --values deploy/kubernetes/prometheus-adapter.yaml" in page


def test_scale_down_waits_for_new_connections():
    """The autoscaler waits longer than the maximum age of connections."""
    deployment = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    window = AUTOSCALER["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > 1.1 * float(variables["IMAGEMINT_CONNECTION_AGE_S"])


def test_traffic_is_every_method_for_images():
    """The alert on missing traffic counts all methods that answer with images, and no others."""
    methods = list_methods()
    no_images = methods.pop("ModelService")
    inference = methods.pop("GRPCInferenceService")
    tensors = {method for method in inference if method.endswith("Infer")}
    assert set(methods) == {"GenerationService", "TranslationService"}
    (listed,) = re.findall(r'method=~"(.+?)"', ALERTS)
    assert set(listed.split("|")) == set().union(tensors, *methods.values())
    assert no_images
    assert tensors < inference


@pytest.mark.parametrize("text", [ALERTS, DASHBOARD], ids=["alerts", "dashboard"])
def test_health_checks_are_no_calls(text):
    """Where calls are counted, those of both health services are left out."""
    assert list_methods()["GRPCInferenceService"] >= HEALTH_CHECKS
    text = text.replace('\\"', '"')
    counted = re.findall(r"imagemint_request(?:s_total|_duration_seconds_bucket)\{(.*?)\}", text)
    # The alert on missing traffic lists its methods.
    counted = [labels for labels in counted if "method=~" not in labels]
    assert len(counted) >= 5
    for labels in counted:
        assert 'service!~"grpc[.].*"' in labels
        (left_out,) = re.findall(r'method!~"(.+?)"', labels)
        assert set(left_out.split("|")) - {".*Stream.*"} == HEALTH_CHECKS


def test_dashboard_shows_servers_of_imagemint_only():
    """*All* means the values of job and server that a series of imagemint has.

    With a pattern in place of the values, panels of `up` and of processes would show every target
    of a shared Prometheus.
    """
    variables = {each["name"]: each for each in json.loads(DASHBOARD)["templating"]["list"]}
    for name in ("job", "instance"):
        assert "allValue" not in variables[name]
        assert variables[name]["query"]["query"].startswith("label_values(imagemint_")
