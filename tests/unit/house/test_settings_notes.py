"""Tests that docs/notes/settings.md has every setting of `imagemint serve`."""

import re
from pathlib import Path

from imagemint.server.settings import ServeSettings

PAGE = (Path(__file__).parents[3] / "docs/notes/settings.md").read_text()


def list_names(rows):
    """Returns the settings in the first column of a table."""
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_notes_have_every_setting_once():
    """The page has no other settings, and no removed setting exists."""
    present, gone = PAGE.split("## Removed")
    rows = [row for row in present.splitlines() if row.startswith("| `")]
    assert sorted(list_names(rows)) == sorted(ServeSettings.model_fields)
    rows = [row for row in gone.splitlines() if row.startswith("| `")]
    assert not set(list_names(rows)) & set(ServeSettings.model_fields)
