"""Tests that the examples of docs/deployment.md fit the manifests."""

import os
import re

import kubernetes_validate
import pytest
import yaml
from manifests import DEPLOY, KUBERNETES, find_container, read_settings, render

PAGE = (DEPLOY.parent / "docs/deployment.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
OVERLAYS = [block for block in BLOCKS if block.startswith("# kustomization.yaml\n")]
PARTS = [block for block in BLOCKS if block.startswith("# in your kustomization.yaml\n")]


def render_overlay(folder, part):
    """Returns the resources of the page's overlay with a part that the reader adds to it."""
    overlay, added = yaml.safe_load(OVERLAYS[0]), yaml.safe_load(part)
    # A part with components or images of its own stands in place of those of the overlay.
    overlay |= added
    at = os.path.relpath(DEPLOY.parent, folder)
    text = yaml.safe_dump(overlay).replace("../imagemint/", f"{at}/")
    (folder / "kustomization.yaml").write_text(text)
    return render(folder)


def test_every_example_is_tested():
    """The page has one whole overlay, and each other block says where it belongs."""
    assert len(OVERLAYS) == 1
    assert len(PARTS) >= 3
    others = set(BLOCKS) - {*OVERLAYS, *PARTS}
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
