"""Tests that the examples of docs/deployment.md fit the manifests."""

import os
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from manifests import DEPLOY, KUBERNETES, find_container, find_resource, read_settings, render
from page_commands import PAGES, blocks_of, split_commands

from imagemint.server.settings import ServeSettings

PAGE = (DEPLOY.parent / "docs/deployment.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
OVERLAYS = [block for block in BLOCKS if block.startswith("# kustomization.yaml\n")]
RULES = [block for block in BLOCKS if block.startswith("# pods.yaml\n")]
KSERVE = [block for block in BLOCKS if block.startswith("# kustomization.yaml for KServe\n")]
PARTS = [block for block in BLOCKS if block.startswith("# in your kustomization.yaml\n")]


def render_overlay(folder, part, overlay=OVERLAYS[0]):
    """Returns the resources of an overlay of the page with a part that the reader adds to it.

    Components or images of the part stand in place of those of the overlay.
    """
    at = os.path.relpath(DEPLOY.parent, folder)
    text = yaml.safe_dump(yaml.safe_load(overlay) | yaml.safe_load(part))
    (folder / "kustomization.yaml").write_text(text.replace("../imagemint/", f"{at}/"))
    return render(folder)


def test_every_example_is_tested():
    """The page has an overlay, one for KServe, an alert, and parts that say where they belong."""
    assert (len(OVERLAYS), len(KSERVE), len(RULES)) == (1, 1, 1)
    assert len(PARTS) >= 3
    others = set(BLOCKS) - {*OVERLAYS, *KSERVE, *RULES, *PARTS}
    assert not others, others


@pytest.mark.parametrize("part", ["{}", *PARTS])
def test_example_renders(part, tmp_path):
    """Each example gives valid resources and settings, and changes something."""
    found = {}
    for name, text in (("with", part), ("without", "{}")):
        (tmp_path / name).mkdir()
        found[name] = render_overlay(tmp_path / name, text)
    assert (found["with"] == found["without"]) == (part == "{}")
    for resource in found["with"]:
        if resource["apiVersion"].split("/")[0] != "monitoring.coreos.com":
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    container = find_container(found["with"])
    assert container["image"].startswith("registry.example/imagemint")
    read_settings(container)


def read_part(variable, folder):
    """Returns the container and the settings with the part of the page that sets a variable."""
    (part,) = (each for each in PARTS if variable in each)
    container = find_container(render_overlay(folder, part))
    return container, read_settings(container)


def test_processes_share_the_cpu_limit(tmp_path):
    """Workers times instances are the CPUs of the pod, and it has memory for each worker."""
    container, settings = read_part("IMAGEMINT_PROCESSES", tmp_path)
    limits = container["resources"]["limits"]
    assert settings.processes > 1
    assert settings.processes * settings.instances == int(limits["cpu"])
    (tmp_path / "base").mkdir()
    base = find_container(render_overlay(tmp_path / "base", "{}"))["resources"]["limits"]["memory"]
    assert limits["memory"] == f"{settings.processes * int(base.removesuffix('Gi'))}Gi"


def test_versions_are_pinned(tmp_path):
    """The server reads the tables in the variables."""
    _, settings = read_part("IMAGEMINT_DEFAULT_VERSIONS", tmp_path)
    assert settings.default_versions == {"mnist": 2}
    assert settings.version_policies["avatars"] == "latest:1"


def test_alert_without_pods_fires(tmp_path):
    """The alert of the page is valid, and fires when the Deployment has no available pod."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    rule = yaml.safe_load(RULES[0])
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump(rule["spec"]))
    (alert,) = rule["spec"]["groups"][0]["rules"]
    deployment = find_resource(render(DEPLOY / "kubernetes/base"), "Deployment")["metadata"]
    names = {"namespace": deployment["namespace"], "deployment": deployment["name"]}
    labels = ", ".join(f'{name}="{value}"' for name, value in names.items())
    series = f"kube_deployment_status_replicas_available{{{labels}}}"
    fired = {
        "exp_labels": names | alert["labels"],
        "exp_annotations": alert["annotations"],
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": "2x5 0x10"}],
        "alert_rule_test": [
            {"alertname": alert["alert"], "eval_time": "5m", "exp_alerts": []},
            {"alertname": alert["alert"], "eval_time": "12m", "exp_alerts": [fired]},
        ],
    }
    test = tmp_path / "test.yaml"
    test.write_text(yaml.safe_dump({"rule_files": ["pods.yaml"], "tests": [case]}))
    done = subprocess.run(
        [promtool, "test", "rules", test], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_example_for_kserve_names_the_image(tmp_path):
    """KServe pulls from the reader's registry, and both resources are in the reader's namespace."""
    resources = render_overlay(tmp_path, "{}", KSERVE[0])
    (container,) = find_resource(resources, "ServingRuntime")["spec"]["containers"]
    assert container["image"].startswith("registry.example/imagemint:")
    read_settings(container)
    assert {resource["metadata"]["namespace"] for resource in resources} == {"models"}
    assert {resource["kind"] for resource in resources} == {"ServingRuntime", "InferenceService"}


def list_commands(program):
    """Returns the words of each command of a program in all pages."""
    lines = [
        line
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "sh"
        for line in block.lines
    ]
    commands = [words for line in lines for words in split_commands(line)]
    return [words for words in commands if words[0] == program]


def test_pages_apply_overlays_with_a_registry():
    """The image of the shipped overlays has no registry, so no page applies them as they are."""
    folders = [words[words.index("-k") + 1] for words in list_commands("kubectl") if "-k" in words]
    assert set(folders) == {"."}


def test_docker_waits_for_the_drain():
    """Docker kills a container ten seconds after the signal, unless it is told the time."""
    runs = [words for words in list_commands("docker") if words[1] == "run"]
    assert runs
    settings = ServeSettings()
    for words in runs:
        waits = int(words[words.index("--stop-timeout") + 1])
        assert waits >= settings.drain_delay_s + settings.drain_grace_s + 10


def test_secrets_can_be_replaced():
    """The commands for Secrets with keys and certificates also work when the Secret exists."""
    names = {"imagemint-api-keys", "imagemint-tls"}
    creating = [words for words in list_commands("kubectl") if names.intersection(words)]
    assert {*names} <= set().union(*creating)
    assert all("--dry-run=client" in words for words in creating)
