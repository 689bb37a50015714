"""Tests that deploy/kserve fits the server and KServe."""

import re

import pytest
import yaml
from manifests import DEPLOY, find_resource, read_settings, render

# KServe copies the models of storageUri to this folder.
MODELS = "/mnt/models"
# KServe uses Kubernetes' default.
GRACE_S = 30


@pytest.fixture
def runtime():
    """The specification of the ServingRuntime."""
    return find_resource(render(DEPLOY / "kserve"), "ServingRuntime")["spec"]


@pytest.fixture
def container(runtime):
    """The container that KServe starts."""
    (found,) = runtime["containers"]
    assert found["name"] == "kserve-container"
    return found


def test_arguments_are_settings(container):
    """The server reads KServe's models and drains within the grace period of the pod."""
    settings = read_settings(container)
    assert str(settings.repository) == MODELS
    assert settings.drain_delay_s + settings.drain_grace_s + 10 <= GRACE_S
    assert settings.instances == int(container["resources"]["limits"]["cpu"])


def test_port_is_the_grpc_port(container):
    """KServe routes to the only port, whose name says HTTP/2."""
    (port,) = container["ports"]
    assert port["name"] == "h2c"
    assert read_settings(container).grpc_address.endswith(f":{port['containerPort']}")
    assert container["readinessProbe"]["grpc"]["port"] == port["containerPort"]


def test_no_restart_waits_for_a_model(container):
    """Startup and liveness need no model, and workers listen before the pod is restarted."""
    settings, startup = read_settings(container), container["startupProbe"]
    _, port = settings.http_address.split(":")
    for probe in (startup, container["livenessProbe"]):
        assert probe["httpGet"] == {"path": "/healthz", "port": int(port)}
    assert settings.start_timeout_s > settings.load_timeout_s
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.start_timeout_s


def test_service_selects_the_runtime(runtime):
    """The InferenceService uses a format and a protocol of the runtime."""
    service = find_resource(render(DEPLOY / "kserve"), "InferenceService")["spec"]
    model = service["predictor"]["model"]
    assert model["runtime"] == "imagemint"
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"]["name"] in {
        each["name"] for each in runtime["supportedModelFormats"]
    }


def test_container_has_few_rights(container):
    """The container does not run as root, and has a read-only root and no capabilities."""
    rights = container["securityContext"]
    assert rights["runAsNonRoot"]
    assert rights["readOnlyRootFilesystem"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}


def test_prometheus_finds_each_pod_once(runtime, container):
    """The monitor reads the metrics port of the pods of the InferenceService, as one job."""
    monitor = yaml.safe_load((DEPLOY / "kserve/pod-monitor.yaml").read_text())["spec"]
    service = find_resource(render(DEPLOY / "kserve"), "InferenceService")["metadata"]["name"]
    labels = {"serving.kserve.io/inferenceservice": service}
    assert monitor["selector"]["matchLabels"] == labels
    (endpoint,) = monitor["podMetricsEndpoints"]
    address, job = endpoint["relabelings"]
    (port,) = container["ports"]
    assert endpoint["port"] == port["name"]
    # Go writes a group as Python does, but for the sign.
    found = re.fullmatch(address["regex"], f"[fd00::1]:{port['containerPort']}")
    target = found.expand(address["replacement"].replace("$", "\\"))
    _, _, metrics = read_settings(container).metrics_address.rpartition(":")
    assert target == f"[fd00::1]:{metrics}"
    assert metrics == runtime["annotations"]["prometheus.kserve.io/port"]
    alerts = (DEPLOY / "prometheus/alerts.yml").read_text()
    assert {job["replacement"]} == set(re.findall(r'\bjob="(.+?)"', alerts))
