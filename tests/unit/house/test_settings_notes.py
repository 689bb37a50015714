"""docs/notes/settings.md says of every setting of `imagemint serve` who sets it."""

import re
from pathlib import Path

from imagemint.server.settings import ServeSettings

PAGE = (Path(__file__).parents[3] / "docs/notes/settings.md").read_text()


def names_of(rows):
    """The settings in the first column of a table."""
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_notes_list_every_setting_once():
    """No other settings, and none that is gone."""
    present, gone = PAGE.split("## Removed")
    rows = [row for row in present.splitlines() if row.startswith("| `")]
    assert sorted(names_of(rows)) == sorted(ServeSettings.model_fields)
    rows = [row for row in gone.splitlines() if row.startswith("| `")]
    assert not set(names_of(rows)) & set(ServeSettings.model_fields)
