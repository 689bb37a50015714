"""Tests of deploy/compose: its files, ports and settings exist."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from manifests import DEPLOY, read_settings

COMPOSE = DEPLOY / "compose"
SERVICES = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
BINDS = [
    (name, volume)
    for name, service in SERVICES.items()
    for volume in service["volumes"]
    if volume["type"] == "bind"
]


def find_source(service: str, path: str):
    """Returns the file of the project that a service sees at a path."""
    (found,) = (
        (COMPOSE / volume["source"]).resolve() / path.removeprefix(volume["target"]).lstrip("/")
        for name, volume in BINDS
        if name == service and f"{path}/".startswith(f"{volume['target']}/")
    )
    return found


def test_file_follows_the_schema():
    """The compose specification allows every key and value."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, COMPOSE / "compose.yaml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("service", "volume"), BINDS)
def test_mounted_files_exist(service, volume):
    """A missing source would become an empty directory. Nothing writes into the checkout."""
    assert (COMPOSE / volume["source"]).exists()
    assert volume["read_only"]


def test_server_has_its_settings_and_ports():
    """The variables are settings, and the ports of the listeners are published on loopback."""
    server = SERVICES["server"]
    variables = [{"name": name, "value": value} for name, value in server["environment"].items()]
    settings = read_settings({"env": variables})
    assert (settings.grpc_address, settings.http_address, settings.metrics_address) == (
        "0.0.0.0:8001",
        "0.0.0.0:8000",
        "0.0.0.0:8002",
    )
    assert set(server["ports"]) == {f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)}
    assert int(server["stop_grace_period"].removesuffix("s")) >= (
        settings.drain_delay_s + settings.drain_grace_s + 10
    )
    target = server["build"]["target"]
    assert f" AS {target}\n" in (DEPLOY.parent / "Dockerfile").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_services_have_few_rights(service):
    """No capability, no new privilege, and no port that other machines can reach."""
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert SERVICES[service]["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])


def test_prometheus_reads_the_server_and_the_alerts(tmp_path):
    """The tool promtool accepts configuration and alerts in the places of the container."""
    path = find_source("prometheus", "/etc/prometheus/prometheus.yml")
    configuration = yaml.safe_load(path.read_text())
    (job,) = configuration["scrape_configs"]
    assert job["job_name"] == "imagemint"  # the name that the alerts expect
    assert job["static_configs"] == [{"targets": ["server:8002"]}]
    (alerts,) = configuration["rule_files"]
    assert find_source("prometheus", f"/etc/prometheus/{alerts}").is_file()
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    shutil.copy(path, tmp_path)
    shutil.copy(find_source("prometheus", f"/etc/prometheus/{alerts}"), tmp_path)
    command = [promtool, "check", "config", tmp_path / path.name]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_has_source_and_dashboard():
    """The source is the Prometheus of this file, and the provider's folder has the dashboard."""
    provisioning = "/etc/grafana/provisioning"
    path = find_source("grafana", f"{provisioning}/datasources/prometheus.yaml")
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    path = find_source("grafana", f"{provisioning}/dashboards/imagemint.yaml")
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{provider['options']['path']}/")
    assert json.loads(find_source("grafana", home).read_text())["uid"] == "imagemint"
