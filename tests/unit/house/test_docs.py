"""Tests that statements of the documentation are true."""

import ast
import importlib
import inspect
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagemint.client import AsyncClient

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "[!.]*/*/README.md")
    for path in ROOT.glob(pattern)
    if not path.is_relative_to(ROOT / ".venv")
)
VECTORS = json.loads((ROOT / "tests/unit/engine/sampling_vectors.json").read_text())


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The functions that docs/sampling.md defines in its Python block."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/sampling.md").read_text(), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - our own page; running it is the test
    return names


@pytest.mark.parametrize("vector", VECTORS["latents"], ids=lambda vector: vector["name"])
def test_sampling_page_gives_the_words_of_the_vectors(reference: dict, vector: dict):
    """The plain Python of the page draws the words and uniforms of the published vectors."""
    z_dim, index = vector["z_dim"], int(vector["index"])
    first = 4 * -(-z_dim // 4) * index
    words = reference["words"](int(vector["seed"]), 0, first, z_dim)
    assert [f"{word:016x}" for word in words] == vector["words"]
    assert [reference["unit"](word).hex() for word in words] == vector["u"]


@pytest.mark.parametrize("name", ["origin", "mnist-42-17", "counter-above-64-bits"])
def test_sampling_page_gives_the_normal_latents(reference: dict, name: str):
    """Another implementation of the normal quantile agrees after rounding to float32."""
    (vector,) = (each for each in VECTORS["latents"] if each["name"] == name)
    drawn = reference["normal_latent"](int(vector["seed"]), int(vector["index"]), vector["z_dim"])
    assert [float(np.float32(z)).hex() for z in drawn] == vector["latent"]


def test_sampling_page_gives_the_drawn_classes(reference: dict):
    """The page draws the classes of every vector without weights."""
    for vector in VECTORS["classes"]:
        if vector["weights"] is None:
            first = int(vector["first_index"])
            drawn = [
                reference["draw_class"](int(vector["seed"]), first + i, vector["num_classes"])
                for i in range(len(vector["class_ids"]))
            ]
            assert drawn == vector["class_ids"]


def test_sampling_page_gives_the_drawn_captions(reference: dict):
    """The page draws the example captions of the vectors."""
    for vector in VECTORS["examples"]:
        seed, first, examples = int(vector["seed"]), int(vector["first_index"]), vector["examples"]
        drawn = [
            examples[reference["draw_class"](seed, first + i, len(examples))]
            for i in range(len(vector["captions"]))
        ]
        assert drawn == vector["captions"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_have_targets(page: Path):
    """Every relative link of a page names an existing file or folder."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_imports_of_examples_exist(page: Path):
    """Every name that a Python example of a page imports from imagemint exists."""
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagemint"):
                module = importlib.import_module(node.module or "")
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize("module", ["imagemint.client", "imagemint.client.torch"])
def test_reference_names_every_public_name(module: str):
    """The page of a module has an entry for each of its public names."""
    page = ROOT / "docs/reference/python" / f"{module.rpartition('.')[2]}.md"
    shown = set(re.findall(r"^### (.+)$", page.read_text(), re.MULTILINE))
    assert set(importlib.import_module(module).__all__) <= shown


def test_reference_has_the_methods_of_both_clients():
    """Each method of `AsyncClient` has an entry with its signature, and so has that of `Client`."""
    page = (ROOT / "docs/reference/python/client.md").read_text()
    names = [name for name, each in vars(AsyncClient).items() if inspect.isfunction(each)]
    for name in (name for name in names if not name.startswith("_")):
        wait = "async " if inspect.iscoroutinefunction(getattr(AsyncClient, name)) else ""
        assert f"#### Client.{name}\n\n```py\ndef {name}(" in page
        start = rf"#### AsyncClient\.{name}\n\n```py\n{wait or '(async )?'}def {name}\("
        assert re.search(start, page), name


def test_changelog_has_no_entry_twice():
    """A merge of two branches that add entries to one place can repeat them elsewhere."""
    entries = re.findall(r"^- .+$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [entry for entry, times in Counter(entries).items() if times > 1] == []


def test_changelog_has_the_version():
    """The version of pyproject.toml has an entry below Unreleased."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings
