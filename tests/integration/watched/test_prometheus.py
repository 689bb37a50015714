"""Tests of every query of the dashboard and every alert with a real Prometheus."""

import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/imagemint.json").read_text())
ADAPTER = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())
# Grafana's replacements: the choice "All", and a window of a few scrapes.
VARIABLES = {
    "$__rate_interval": "5m",
    "$job": ".+",
    "$instance": ".+",
    "$model": ".*",
}
# Series that are 0 on a server without such a fault, and with no response under way.
WITHOUT_FAULT = {
    "imagemint_bytes_in_flight",
    "imagemint_log_lines_dropped_total",
    "imagemint_repository_lost",
    "imagemint_repository_incomplete_versions",
}
# Series of servers with API keys, certificates, several processes, an object store or a GPU, and of
# calls that the server ends.
WITHOUT_DATA = {
    "imagemint_certificate_expiry_timestamp_seconds",
    "imagemint_client_images_total",
    "imagemint_device_memory_total_bytes",
    "imagemint_device_memory_used_bytes",
    "imagemint_device_utilization_ratio",
    "imagemint_ended_calls_total",
    "imagemint_file_refused",
    "imagemint_reloads_total",
    "imagemint_repository_syncs_total",
    "imagemint_worker_restarts_total",
    "imagemint_workers",
    "imagemint_workers_ready",
}


def list_queries():
    """Yields every query of the dashboard with the title of its panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")


def fill_variables(expression):
    """Returns a query with the dashboard's variables replaced."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", list(list_queries()))
def test_dashboard_query_has_data(watched, expression):
    """Each query gives numbers: positive ones, or 0 without a fault, or none without a cause."""
    values = watched.values(fill_variables(expression))
    metrics = set(re.findall(r"imagemint_\w+", expression))
    if metrics & WITHOUT_DATA:
        assert not values
    elif metrics & WITHOUT_FAULT:
        assert values
        assert set(values) == {0}
    else:
        assert any(math.isfinite(value) and value > 0 for value in values), values


@pytest.mark.parametrize("variable", DASHBOARD["templating"]["list"][1:], ids=lambda v: v["name"])
def test_dashboard_variable_has_values(watched, variable):
    """Each variable at the top of the dashboard has values."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert all(each["metric"][found[2]] for each in watched.query(fill_variables(found[1])))
    assert watched.query(fill_variables(found[1]))


def test_metrics_keep_their_labels(watched):
    """No label of a target hides one of a metric: Prometheus would rename it to `exported_…`."""
    series = watched.get("series", **{"match[]": '{job="imagemint"}'})
    names = set().union(*series)
    assert {"namespace", "pod", "method"} <= names
    assert not {name for name in names if name.startswith("exported_")}
    services = {
        each["service"] for each in series if each["__name__"] == "imagemint_requests_total"
    }
    assert services == {"imagemint.v1.GenerationService"}


@pytest.mark.parametrize("rule", ADAPTER["rules"]["custom"], ids=lambda rule: rule["name"]["as"])
def test_adapter_query_has_data(watched, rule):
    """A query of prometheus-adapter gives one number per server, which is an instance here."""
    expression = rule["metricsQuery"]
    series = re.match(r"\w+", rule["seriesQuery"])[0]
    parts = {"Series": series, "LabelMatchers": 'job="imagemint"', "GroupBy": "instance"}
    for name, value in parts.items():
        expression = expression.replace(f"<<.{name}>>", value)
    assert "<<" not in expression
    (found,) = watched.query(expression)
    assert set(found["metric"]) == {"instance"}


def test_every_rule_can_be_evaluated(watched, eventually):
    """No recording rule and no alert fails in Prometheus."""
    rules = []

    def evaluated():
        groups = watched.get("rules")["groups"]
        rules[:] = [rule for group in groups for rule in group["rules"]]
        return rules and all(rule["health"] != "unknown" for rule in rules)

    eventually(evaluated)
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    for rule in rules:
        watched.query(rule["query"])


def test_alerts_report_the_faults(watched, eventually):
    """Failures, a full queue, refused calls and a refused bundle are the only alerts."""
    wrong = {
        "ImagemintErrorBudgetBurnFast",
        "ImagemintErrorBudgetBurnSlow",
        "ImagemintQueueNearlyFull",
        "ImagemintRejections",
        "ImagemintModelLoadFailed",
    }

    def pending():
        return {alert["labels"]["alertname"] for alert in watched.get("alerts")["alerts"]}

    eventually(lambda: pending() >= wrong)
    assert pending() == wrong


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", ALERTS],
        ["check", "config", DEPLOY / "prometheus/prometheus.yml"],
        ["test", "rules", DEPLOY / "prometheus/alerts_test.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_accepts_the_rules(promtool, arguments):
    """The rules and the sample are valid, and each alert fires in its cases only."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    """Each alert has a case in which it fires."""
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert len(alerts) > 5
    cases = ALERTS.with_name("alerts_test.yml").read_text()
    firing = re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", cases)
    assert set(firing) == set(alerts)
