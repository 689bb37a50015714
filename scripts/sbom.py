"""`make sbom`: what Python packages are in the images, and under which licences.

Writes `dist/imagemint-VERSION-TARGET.cdx.json`, a software bill of materials in CycloneDX 1.6, and
`dist/imagemint-VERSION-TARGET-licenses.md`, for each target of the Dockerfile that is named. Each
environment is installed anew, as scripts/image-environment.sh does it.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[1]
# The same extras as in the Dockerfile; a test compares them.
EXTRAS = {"cpu": "server,trace,store,signing", "gpu": "gpu,trace,store,signing"}
# Packages whose metadata has no licence, with the one that their repository has.
UNDECLARED = {"protobuf": "BSD-3-Clause"}


def make_environment(folder: Path, extras: str) -> Path:
    """Installs the checkout with these extras into a new environment; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
    requirement = f"imagemint[{extras}] @ {ROOT.as_uri()}"
    subprocess.run([*pip, "install", *options, requirement], check=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "setuptools", "pip"], check=True)
    return python


def describe_environment(python: Path) -> dict[str, Any]:
    """The bill of materials of an environment, as CycloneDX JSON. Every component has a licence.

    `imagemint` is the subject of the bill and not one of its components.

    Raises:
        LookupError: A package declares no licence, and `UNDECLARED` has none for it.
        ValueError: The bill does not have the form of CycloneDX.
    """
    tool = str(Path(sys.executable).with_name("cyclonedx-py"))
    project = f"--pyproject={ROOT / 'pyproject.toml'}"
    options = ["--no-validate", project, "--output-reproducible", "--short-PURLs"]
    done = subprocess.run(
        [tool, "environment", *options, str(python)],
        check=True,
        stdout=subprocess.PIPE,
    )
    bill: dict[str, Any] = json.loads(done.stdout)
    add_licenses(bill)
    check_form(bill)
    return bill


def add_licenses(bill: dict[str, Any]) -> None:
    """Gives each component without a licence that of `UNDECLARED`.

    Raises:
        LookupError: `UNDECLARED` has none.
    """
    for part in bill["components"]:
        if "licenses" not in part:
            if part["name"] not in UNDECLARED:
                raise LookupError(f"{part['name']} declares no licence. Add it to UNDECLARED.")
            part["licenses"] = [{"license": {"id": UNDECLARED[part["name"]]}}]


def check_form(bill: dict[str, Any]) -> None:
    """Checks a bill against the strict schema of CycloneDX.

    Raises:
        ValueError: It does not fit.
    """
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)):
        raise ValueError(f"the bill of materials is not CycloneDX 1.6: {error}")


def list_licenses(bill: dict[str, Any]) -> str:
    """A table in Markdown: package, version and licence of every component."""
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [
        f"| {part['name']} | {part['version']} | {_join_licenses(part['licenses'])} |"
        for part in sorted(bill["components"], key=lambda part: part["name"].lower())
    ]
    return "\n".join(lines) + "\n"


def _join_licenses(entries: list[dict[str, Any]]) -> str:
    """Licence identifiers if there are any, otherwise the names, without the classifier's path."""
    known = [
        entry.get("expression") or entry["license"].get("id")
        for entry in entries
        if "expression" in entry or "id" in entry["license"]
    ]
    names = [entry["license"]["name"].split(" :: ")[-1] for entry in entries if not known]
    return ", ".join(dict.fromkeys(known or names))


def main() -> None:
    """Writes the bill and the table of each target named on the command line."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (ROOT / "dist").mkdir(exist_ok=True)
    for target in sys.argv[1:] or EXTRAS:
        with tempfile.TemporaryDirectory() as folder:
            bill = describe_environment(make_environment(Path(folder), EXTRAS[target]))
        at = ROOT / f"dist/imagemint-{version}-{target}"
        at.with_name(at.name + ".cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
        at.with_name(at.name + "-licenses.md").write_text(list_licenses(bill))
        print(f"{at.relative_to(ROOT)}.cdx.json: {len(bill['components'])} packages")


if __name__ == "__main__":
    main()
