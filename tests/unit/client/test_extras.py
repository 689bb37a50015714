"""Which extra brings a module, and how to install it."""

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from imagemint.client import extras
from imagemint.client.extras import MODULES, find_extra, install_command

ROOT = Path(__file__).parents[3]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# Distributions whose modules the table need not name: a command never misses them.
QUIET = {"nvidia-ml-py", "onnxruntime-gpu"}


@pytest.mark.parametrize(
    ("module", "part", "extra"),
    [
        ("onnxruntime", "imagemint.server.commands.serve", "server"),
        ("torch.nn", "imagemint.training.command", "train"),
        ("torch", "imagemint.exporter.command", "export"),
        ("scipy", "imagemint.server.commands.serve", "server"),
        ("scipy.special", "imagemint.training.command", "train"),
        ("matplotlib", "imagemint.bench.command", "bench"),
        ("opentelemetry", "imagemint.server.commands.serve", "trace"),
        ("torch_fidelity", "imagemint.training.command", "inception"),
        ("onnxscript", "imagemint.exporter.command", "export"),
        ("json5", "imagemint.server.commands.serve", None),
    ],
)
def test_extra_fits_module_and_part(module, part, extra):
    """The part's own extra where it brings the module, else the first that does."""
    assert find_extra(module, part) == extra


def requirements_of(extra):
    """The distributions that an extra of pyproject.toml brings, through extras within extras."""
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == extras.DISTRIBUTION:
            for inner in requirement.extras:
                yield from requirements_of(inner)
        else:
            yield requirement.name


@pytest.mark.parametrize("extra", MODULES)
def test_table_is_that_of_pyproject(extra):
    """Each requirement of an extra has a module in the table, as far as it is installed here."""
    modules = metadata.packages_distributions()
    for name in set(requirements_of(extra)) - QUIET:
        found = {module for module, owners in modules.items() if name in owners}
        assert not found or found & MODULES[extra], name


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'imagemint[train]'"),
        (
            {"url": "file:///srv/a%20b/imagemint", "dir_info": {"editable": True}},
            "pip install -e '/srv/a b/imagemint[train]'",
        ),
        ({"url": "file:///src/imagemint", "dir_info": {}}, "pip install '/src/imagemint[train]'"),
        ({"url": "https://host/imagemint.whl"}, "pip install 'imagemint[train]'"),
    ],
)
def test_command_names_the_clone(monkeypatch, origin, command):
    """Where the installation came from a clone, the command installs the extra from there."""

    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return json.dumps(origin) if origin else None

    monkeypatch.setattr(metadata, "distribution", lambda _: Installed())
    assert install_command("train") == command
