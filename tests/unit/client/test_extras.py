"""Tests of imagemint.client.extras: the extra of a module and how to install it."""

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from imagemint.client.extras import (
    _EXTRA_OF_MODULE,
    _EXTRA_OF_PART,
    find_extra,
    install_command,
)

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


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
        ("imagemint.server.nothing", "imagemint.server.commands.serve", None),
        ("json5", "imagemint.client.generate", None),
    ],
)
def test_extra_follows_from_module_and_part(module, part, extra):
    """The result is the module's own extra, otherwise that of the part."""
    assert find_extra(module, part) == extra


@pytest.mark.parametrize("extra", [*_EXTRA_OF_MODULE.values(), *_EXTRA_OF_PART.values()])
def test_extra_exists(extra):
    """Every extra in the tables exists in pyproject.toml."""
    assert extra in EXTRAS


def test_every_command_has_an_extra():
    """Only commands of the client need no extra."""
    for name, target in PROJECT["entry-points"]["imagemint.commands"].items():
        part = ".".join(target.split(".")[:2])
        assert part == "imagemint.client" or part in _EXTRA_OF_PART, name


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
def test_command_uses_the_clone(monkeypatch, origin, command):
    """If the installation comes from a clone, the command installs the extra from it."""

    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return json.dumps(origin) if origin else None

    monkeypatch.setattr(metadata, "distribution", lambda _: Installed())
    assert install_command("train") == command
