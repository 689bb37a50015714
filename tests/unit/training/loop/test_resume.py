"""Tests of imagemint.training.loop.resume: the settings that a run records."""

import pytest
from pydantic import BaseModel

from imagemint.training.loop.resume import list_settings_to_record


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
