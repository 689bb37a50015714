"""Tests of the environments of peers, without installing any."""

import json
from importlib import metadata

import pytest
from peers import environments


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a peer `nobody` with requirements and of its environment."""
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "made")
    (tmp_path / "peers/nobody").mkdir(parents=True)
    (tmp_path / "peers/nobody/requirements.txt").write_text("nobody==1\n")
    (tmp_path / "made").mkdir()
    return tmp_path


def test_environment_is_made_once_for_the_same_requirements(folder, monkeypatch):
    """The environment is made again if the requirements change or if it failed."""
    made = []

    def make(directory, requirements, digest):
        made.append(directory.name)
        return environments.Environment(digest, {"nobody": "1"}, 7, None)

    monkeypatch.setattr(environments, "_make_environment", make)
    assert environments.prepare_environment("nobody") == environments.prepare_environment("nobody")
    assert made == ["nobody"]
    (folder / "peers/nobody/requirements.txt").write_text("nobody==2\n")
    environments.prepare_environment("nobody")
    assert made == ["nobody"] * 2
    note = folder / "made/nobody.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"reason": "no network"}))
    environments.prepare_environment("nobody")
    assert made == ["nobody"] * 3


def test_peer_that_cannot_be_installed_has_a_reason(folder, monkeypatch):
    """The reason is pip's message, and no exception is raised."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert "nobody==1" in (environments.prepare_environment("nobody").reason or "")


def test_every_peer_pins_its_requirements():
    """Each server has a folder with exact versions and the same ONNX Runtime."""
    for name in environments.PEERS:
        text = (environments.FOLDER / name / "requirements.txt").read_text()
        lines = [line.split("#")[0].strip() for line in text.splitlines()]
        assert all("==" in line for line in lines)
        assert f"onnxruntime=={metadata.version('onnxruntime')}" in lines


def test_size_of_a_distribution_includes_its_requirements():
    """The server extra is larger than the ONNX Runtime that it needs."""
    runtime = environments.count_distribution_bytes("onnxruntime")
    assert environments.count_distribution_bytes("imagemint[server]") > runtime > 1e6
    assert environments.count_distribution_bytes(
        "imagemint"
    ) < environments.count_distribution_bytes("imagemint[server]")
