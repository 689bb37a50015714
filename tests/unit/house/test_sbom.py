"""Tests of the bill of materials of `make sbom`, with a small environment."""

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# One whose metadata has no licence, one with classifiers, one with a licence expression, and the
# subject of the bill.
PACKAGES = ("protobuf", "scipy", "structlog", "imagemint")


@pytest.fixture(scope="module")
def script():
    """scripts/sbom.py as a module."""
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "scripts/sbom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bill(script, tmp_path_factory):
    """The bill of an environment with the metadata of four packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in PACKAGES:
        metadata = Path(str(distribution(name).locate_file("")))
        (found,) = metadata.glob(f"{name}-*.dist-info")
        (packages / found.name).symlink_to(found)
    return script.describe_environment(folder / "bin/python")


def test_malformed_bill_is_refused(script, bill):
    """The bill has passed the schema of CycloneDX; another format does not."""
    with pytest.raises(ValueError, match="not CycloneDX"):
        script.check_form(bill | {"bomFormat": "SPDX"})


def test_bill_names_the_project_and_its_packages(bill):
    """The subject is imagemint; each package is a component with version and address."""
    assert bill["metadata"]["component"]["name"] == "imagemint"
    found = {part["name"]: part["purl"] for part in bill["components"]}
    assert found == {
        name: f"pkg:pypi/{name}@{distribution(name).version}"
        for name in PACKAGES
        if name != "imagemint"
    }
    assert str(ROOT) not in json.dumps(bill)


def test_every_package_has_a_licence(script, bill):
    """Licences are identifiers if there are any, otherwise those that the project records."""
    rows = script.list_licenses(bill).splitlines()[2:]
    licences = {row.split(" | ")[0].strip("| "): row.split(" | ")[2].strip("| ") for row in rows}
    assert licences == {
        "protobuf": "BSD-3-Clause",
        "scipy": "BSD License",
        "structlog": "MIT OR Apache-2.0",
    }


def test_unknown_licence_is_an_error(script):
    """The error names a package without a licence."""
    with pytest.raises(LookupError, match="bare declares no licence"):
        script.add_licenses({"components": [{"name": "bare"}]})


def test_extras_are_those_of_the_images(script):
    """The Dockerfile installs the same extras for each target."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    for target, extras in script.EXTRAS.items():
        stage = dockerfile.split(f" AS {target}-environment\n")[1].split("\nFROM ")[0]
        assert f" {extras}\n" in stage
