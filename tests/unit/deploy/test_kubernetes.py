"""Tests that deploy/kubernetes renders to valid resources that fit the server."""

import json
import re
import shutil
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml
from manifests import (
    DEPLOY,
    KUBERNETES,
    find_container,
    find_resource,
    read_settings,
    render,
    render_with,
)

OVERLAYS = [DEPLOY / "kubernetes/overlays" / name for name in ("cpu", "gpu", "protected")]
VOLUMES = ["models-from-image", "models-from-volume"]
COMPONENTS = [*VOLUMES, "models-from-object-storage", "signed-models"]
CUSTOM_KINDS = {"PrometheusRule", "ServiceMonitor"}
# checkov pins many packages, so it has an environment of its own: pipx install checkov
CHECKOV = shutil.which("checkov")
# The image of an overlay has no digest and is not pulled at each start, see docs/deployment.md.
EXPECTED_FINDINGS = {"CKV_K8S_15", "CKV_K8S_43"}


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def overlay(request):
    """The resources of each overlay."""
    return render(request.param)


def pod(resources):
    """The specification of the server's pods."""
    return find_resource(resources, "Deployment")["spec"]["template"]["spec"]


def validate(resources, seen):
    """Validates the resources that are not in `seen` and adds them. Unknown fields are errors."""
    for resource in resources:
        text = json.dumps(resource)
        if resource["kind"] not in CUSTOM_KINDS and text not in seen:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
            seen.add(text)


def test_resources_follow_the_schemas(tmp_path):
    """All overlays and components are valid for Kubernetes, without unknown fields."""
    seen: set[str] = set()
    for folder in OVERLAYS:
        validate(render(folder), seen)
    for component in COMPONENTS:
        folder = tmp_path / component
        folder.mkdir()
        validate(render_with(folder, component), seen)
    assert len(seen) > len(OVERLAYS) + len(COMPONENTS)


@pytest.mark.skipif(CHECKOV is None, reason="needs checkov on the PATH")
def test_checkov_finds_nothing_new(overlay, tmp_path):
    """The security checks of checkov pass, except those that a digest of the image ends."""
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(yaml.safe_dump_all(overlay))
    command = (CHECKOV, "--framework=kubernetes", "--skip-download", "--output=json")
    done = subprocess.run(
        [*command, f"--file={manifest}"], capture_output=True, text=True, check=False
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 50
    found = {check["check_id"] for check in report["results"]["failed_checks"]}
    assert found == EXPECTED_FINDINGS


def test_settings_are_those_of_the_server(overlay):
    """Each variable is a setting with a valid value, and the listeners have the known ports."""
    container = find_container(overlay)
    settings = read_settings(container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8001, "http": 8000, "metrics": 8002}
    assert settings.grpc_address.endswith(":8001")
    assert settings.http_address.endswith(":8000")
    assert settings.metrics_address.endswith(":8002")


def test_pod_outlives_its_drain(overlay):
    """The kubelet waits ten seconds longer than drain_delay_s and drain_grace_s together."""
    settings = read_settings(find_container(overlay))
    grace = pod(overlay)["terminationGracePeriodSeconds"]
    assert grace >= settings.drain_delay_s + settings.drain_grace_s + 10


def test_no_restart_waits_for_a_model(overlay):
    """Startup and liveness ask whether the process answers, which needs no model."""
    container = find_container(overlay)
    for probe in (container["startupProbe"], container["livenessProbe"]):
        assert (probe.get("grpc"), probe["httpGet"]["path"]) == (None, "/healthz")


def test_probes_outlast_loading(overlay):
    """A pod is ready when its models were tried, and its workers listen before it is restarted."""
    container = find_container(overlay)
    startup = container["startupProbe"]
    settings = read_settings(container)
    assert settings.start_timeout_s > settings.load_timeout_s
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.start_timeout_s


def test_probes_use_the_protocol_of_the_listener(overlay):
    """Readiness uses gRPC health, or HTTPS if the server has TLS, which gRPC probes lack."""
    container = find_container(overlay)
    probe = container["readinessProbe"]
    has_tls = bool(read_settings(container).tls_certificate)
    if has_tls:
        get = {"path": "/readyz", "port": "http", "scheme": "HTTPS"}
        assert (probe.get("grpc"), probe["httpGet"]) == (None, get)
    else:
        assert (probe["grpc"], probe.get("httpGet")) == ({"port": 8001}, None)
    for probe in (container["startupProbe"], container["livenessProbe"]):
        assert probe["httpGet"]["port"] == "http"
        assert (probe["httpGet"].get("scheme", "HTTP") == "HTTPS") == has_tls


def test_pod_has_few_rights(overlay):
    """The pod meets the standard `restricted` and has neither a token nor a writable root."""
    spec, container = pod(overlay), find_container(overlay)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}\n"
    assert user in (DEPLOY.parent / "Dockerfile").read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert find_resource(overlay, "ServiceAccount")["automountServiceAccountToken"] is False
    # Variables of Services start with the name of the Service, as the settings do.
    assert spec["enableServiceLinks"] is False
    labels = find_resource(overlay, "Namespace", "imagemint")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_selectors_find_the_pods(overlay):
    """Services, budget, policy, spreading and monitoring select the labels that the pods have."""
    deployment = find_resource(overlay, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        find_resource(overlay, "Service")["spec"]["selector"],
        find_resource(overlay, "Service", "imagemint-headless")["spec"]["selector"],
        find_resource(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find_resource(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in pod(overlay)["topologySpreadConstraints"]
        ),
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = find_resource(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])


def test_ports_of_services_and_policy_exist(overlay):
    """Every port is one of the container, by its name."""
    names = {port["name"] for port in find_container(overlay)["ports"]}
    services = [resource for resource in overlay if resource["kind"] == "Service"]
    ports = [port["targetPort"] for service in services for port in service["spec"]["ports"]]
    rules = find_resource(overlay, "NetworkPolicy")["spec"]["ingress"]
    ports += [port["port"] for rule in rules for port in rule["ports"]]
    assert set(ports) == names
    assert find_resource(overlay, "NetworkPolicy")["spec"]["egress"] == []


def test_clients_can_balance(overlay):
    """The headless Service gives the addresses of the pods for gRPC."""
    service = find_resource(overlay, "Service", "imagemint-headless")
    assert service["spec"]["clusterIP"] == "None"
    assert 8001 in {port["port"] for port in service["spec"]["ports"]}


def test_prometheus_finds_each_pod_once(overlay):
    """One Service has the scraped port, and its label is the job name of the alerts."""
    monitor = find_resource(overlay, "ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    (service,) = (
        resource
        for resource in overlay
        if resource["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= resource["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in resource["spec"]["ports"]}
    )
    job = service["metadata"]["labels"][monitor["jobLabel"]]
    alerts = (DEPLOY / "prometheus/alerts.yml").read_text()
    assert {job} == set(re.findall(r'\bjob="(.+?)"', alerts))


def test_grafana_gets_the_dashboard(overlay):
    """The ConfigMap is the file of deploy/grafana."""
    data = find_resource(overlay, "ConfigMap", "imagemint-dashboard")["data"]
    assert data == {"imagemint.json": (DEPLOY / "grafana/imagemint.json").read_text()}


def test_image_has_the_version_of_the_project(overlay):
    """The tag is the version that pyproject.toml names."""
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    image = find_container(overlay)["image"]
    assert image.removesuffix("-gpu") == f"imagemint:{project['version']}"


def test_gpu_overlay_asks_for_a_gpu():
    """The pod gets one GPU on a node that has some, and fails without."""
    resources = render(OVERLAYS[1])
    container = find_container(resources)
    assert container["image"].endswith("-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod(resources)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {each["key"] for each in pod(resources)["tolerations"]} == {"nvidia.com/gpu"}
    assert read_settings(container).device == "cuda"


def test_gpu_overlay_fits_the_image():
    """The documented driver is that of the image's CUDA, and the driver's cache fits in /tmp."""
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    release = re.search(r"nvidia/cuda:(\d+)\.", dockerfile)[1]
    oldest_driver = {"12": "525", "13": "580"}[release]
    page = (DEPLOY.parent / "docs/deployment.md").read_text()
    assert f"has CUDA {release}, so the nodes need a driver of branch {oldest_driver}" in page
    resources = render(OVERLAYS[1])
    variables = {each["name"]: each.get("value") for each in find_container(resources)["env"]}
    (tmp,) = (volume for volume in pod(resources)["volumes"] if volume["name"] == "tmp")
    room = 2**20 * int(tmp["emptyDir"]["sizeLimit"].removesuffix("Mi"))
    assert "HOME=/tmp" in dockerfile
    assert int(variables["CUDA_CACHE_MAXSIZE"]) <= room / 2


def test_protected_overlay_mounts_its_secrets():
    """Certificate, key and API keys are in mounted Secrets.

    Only the server's group can read them.
    """
    resources = render(OVERLAYS[2])
    container, spec = find_container(resources), pod(resources)
    settings = read_settings(container)
    secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path in (settings.tls_certificate, settings.tls_key, settings.api_keys):
        assert secrets[mounts[str(path.parent)]]["defaultMode"] == 0o440
    assert not any("subPath" in mount for mount in container["volumeMounts"])


@pytest.mark.parametrize("component", VOLUMES)
def test_models_come_from_a_component(component, tmp_path):
    """The component mounts its volume read-only at the server's repository."""
    resources = render_with(tmp_path, component)
    container = find_container(resources)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "models")
    assert mount["mountPath"] == str(read_settings(container).repository)
    assert mount["readOnly"]
    assert "models" in {volume["name"] for volume in pod(resources)["volumes"]}


def test_models_come_from_object_storage(tmp_path):
    """The server copies models to a volume that it can write, and may reach the store."""
    resources = render_with(tmp_path, "models-from-object-storage")
    container = find_container(resources)
    settings = read_settings(container)
    assert settings.repository.startswith("s3://")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(resources)["volumes"]}
    cache = volumes[mounts[str(settings.repository_cache)]]["emptyDir"]
    # With all versions of the store, the copies of every pod would some day exceed the volume.
    assert settings.version_policy.startswith("latest:")
    needs = container["resources"]
    disk = needs["limits"]["ephemeral-storage"]
    assert needs["requests"]["ephemeral-storage"] == disk
    assert int(disk.removesuffix("Gi")) > int(cache["sizeLimit"].removesuffix("Gi"))
    (egress,) = find_resource(resources, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in egress["ports"]} == {53, 443}
    assert container["envFrom"] == [
        {"secretRef": {"name": "imagemint-object-storage", "optional": True}}
    ]


def test_models_must_be_signed(tmp_path):
    """The public keys are in a mounted ConfigMap, as a whole directory."""
    resources = render_with(tmp_path, "signed-models")
    container = find_container(resources)
    path = read_settings(container).require_signature
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(resources)["volumes"]}
    assert "configMap" in volumes[mounts[str(path.parent)]]
    assert not any("subPath" in mount for mount in container["volumeMounts"])
