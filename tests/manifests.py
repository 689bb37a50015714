"""Functions that render and read the manifests of deploy/."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from imagemint.client.settings import gather_settings
from imagemint.server.commands.serve import Serve
from imagemint.server.settings import ServeSettings

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = "1.31"
"""The oldest release with all fields that the manifests use."""
# kustomize 3.7 introduced components. The kubectl 1.20 of Debian 12 contains version 2.0.
_OLDEST_KUBECTL = (1, 21)
# What libraries read.
_OTHER_VARIABLES = {"CUDA_CACHE_MAXSIZE"}


@cache
def find_kubectl() -> str:
    """Returns the path of kubectl. The test is skipped without one that supports components."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "version", "--client", "--output=yaml"]
    told = yaml.safe_load(subprocess.run(command, check=True, capture_output=True).stdout)
    version = told["clientVersion"]
    found = int(version["major"]), int(re.sub(r"\D", "", version["minor"]))
    if found < _OLDEST_KUBECTL:
        pytest.skip(f"kubectl {found} is older than {_OLDEST_KUBECTL}: it knows no components")
    return kubectl


@cache
def render(folder: Path) -> list[dict[str, Any]]:
    """Returns the resources that `kubectl kustomize` makes of a folder."""
    done = subprocess.run(
        [find_kubectl(), "kustomize", str(folder)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def render_with(folder: Path, component: str) -> list[dict[str, Any]]:
    """Returns the base with one component, from a kustomization that it writes into `folder`."""
    at = os.path.relpath(DEPLOY / "kubernetes", folder)
    text = f"resources: [{at}/base]\ncomponents: [{at}/components/{component}]\n"
    (folder / "kustomization.yaml").write_text(text)
    return render(folder)


def find_resource(resources: list[dict[str, Any]], kind: str, name: str = "imagemint") -> Any:
    """Returns the resource of a kind and name."""
    (found,) = (r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name)
    return found


def find_container(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the container of the server."""
    (found,) = find_resource(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def read_settings(container: dict[str, Any]) -> ServeSettings:
    """Returns the settings that variables and arguments of a container mean to `imagemint serve`.

    Fails for a setting that the server does not have, and for a value that it refuses.
    """
    variables: dict[str, str] = {}
    for variable in container.get("env", []):
        name, value = variable["name"], variable.get("value")
        if "valueFrom" in variable:
            source = variable["valueFrom"]["resourceFieldRef"]
            assert source["containerName"] == container["name"]
            where, what = source["resource"].split(".")
            value = container["resources"][where][what]
        if name in _OTHER_VARIABLES:
            continue
        prefix, _, setting = name.partition("_")
        assert prefix == "IMAGEMINT", name
        assert setting.lower() in ServeSettings.model_fields, name
        variables[name] = value
    command, *flags = container.get("args", ["serve"])
    assert command == "serve"
    own = {name for name in os.environ if name.startswith("IMAGEMINT_")}
    with patch.dict(os.environ, variables):
        for name in own.difference(variables):
            del os.environ[name]
        return gather_settings(Serve, "imagemint serve", flags)
