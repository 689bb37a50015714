"""Tests of imagemint.training.loop.resume: what a run records, and its order of classes."""

from dataclasses import replace

import pytest
from pydantic import BaseModel

from imagemint.training.loop import resume
from imagemint.training.loop.resume import list_settings_to_record, read_class_order


class Settings(BaseModel):
    """The settings of a command."""

    dataset: str


@pytest.mark.parametrize(("name", "is_path"), [("pets", True), ("mnist", False), ("cats", False)])
def test_folder_is_recorded_by_its_path(tmp_path, monkeypatch, name, is_path):
    """A published data set keeps its name, even beside a folder that is called so."""
    monkeypatch.chdir(tmp_path)
    for folder in ("pets", "mnist"):
        (tmp_path / folder).mkdir()
    recorded = list_settings_to_record(Settings(dataset=name), {})
    assert recorded == {"dataset": str(tmp_path / name) if is_path else name}


@pytest.mark.parametrize(
    ("recorded", "sha256", "order"),
    [
        (["2", "10"], "same", None),
        (["10", "2"], "same", ("10", "2")),
        (["10", "2"], "other", ("10", "2")),
        (["code 0", "code 1"], "same", None),
        ([], "same", None),
        ([], "other", ("10", "2")),
    ],
)
def test_run_keeps_its_order_of_classes(tmp_path, monkeypatch, digits, recorded, sha256, order):  # noqa: PLR0917 - parameters
    """Also where the digest of the data does not cover the order. Older runs sorted as text."""
    description = {"class_labels": recorded, "dataset_sha256": sha256}
    monkeypatch.setattr(resume, "find_whole_checkpoint", lambda run: run)
    monkeypatch.setattr(resume, "read_description", lambda _: description)
    data = replace(digits, class_labels=("2", "10"), labels=digits.labels % 2, sha256="same")
    assert read_class_order(tmp_path, data) == order
