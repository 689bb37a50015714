"""Tests that deploy/serve.toml shows exactly the settings of `imagemint serve`."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from imagemint.server.settings import ServeSettings

SAMPLE = (Path(__file__).parents[3] / "deploy/serve.toml").read_text()
# A setting is `#name = value`. Prose has a space after the #.
SETTING = re.compile(r"^#(?=\w+ = )", re.MULTILINE)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The settings of the sample with their comment signs removed."""
    return tomllib.loads(SETTING.sub("", SAMPLE))


def test_sample_has_no_effect_unedited():
    """Every setting is commented out, so the file means the defaults."""
    assert ServeSettings(**tomllib.loads(SAMPLE)) == ServeSettings()


def test_sample_has_every_setting_in_order(shown: dict[str, Any]):
    """The names are those of the class."""
    assert list(shown) == list(ServeSettings.model_fields)


def test_sample_has_the_defaults(shown: dict[str, Any]):
    """Each value is the default of the class, or a valid example."""
    assert ServeSettings(**shown)
    for name, field in ServeSettings.model_fields.items():
        if field.default is not None:
            assert shown[name] == field.default, name
            assert type(shown[name]) is type(field.default), name


def test_sample_explains_every_setting():
    """The docstring of each field is above its setting."""
    for name, field in ServeSettings.model_fields.items():
        above = re.search(rf"((?:^# .*\n)+)^#{name} = ", SAMPLE, re.MULTILINE)
        assert above, name
        prose = " ".join(line.removeprefix("# ") for line in above[1].splitlines())
        assert prose.startswith(" ".join((field.description or "").split())), name
