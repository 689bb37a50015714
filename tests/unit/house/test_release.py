"""Tests of the version in all places, and of the changes by `make release`."""

import datetime as dt
import importlib.util
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- This.\n\n## [0.1.0]\n\n- That.\n"
DATE = dt.date(2026, 1, 2)


@pytest.fixture(scope="module")
def script():
    """scripts/release.py as a module."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts/release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(script, tmp_path):
    """A copy of the files that contain the version."""
    for name in script.PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_place_has_the_version_of_the_project(script):
    """Images, manifests, the TypeScript client and the docs follow pyproject.toml."""
    assert {name: {VERSION} for name in script.PLACES} == script.find_versions(ROOT)


def test_release_writes_every_place(script, copy):
    """After a release no file has the old version, and nothing else has changed."""
    before = {name: (copy / name).read_text() for name in script.PLACES}
    script.write_version(copy, "12.0.3")
    assert all(found == {"12.0.3"} for found in script.find_versions(copy).values())
    script.write_version(copy, VERSION)
    assert before == {name: (copy / name).read_text() for name in script.PLACES}


def test_missing_place_is_an_error(script, copy):
    """The error names a file without the expected text, and no file is changed."""
    (copy / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(script.ReleaseError, match="Dockerfile has no 'ARG VERSION=VERSION'"):
        script.write_version(copy, "12.0.3")
    assert f'version = "{VERSION}"' in (copy / "pyproject.toml").read_text()


def test_changelog_gets_a_section(script):
    """The unreleased changes are under the version and its date."""
    cut = script.cut_changelog(CHANGELOG, "0.3.0", DATE)
    heading = "## [Unreleased]\n\n## [0.3.0] - 2026-01-02\n"
    assert cut == CHANGELOG.replace("## [Unreleased]\n", heading)


@pytest.mark.parametrize(
    ("text", "version", "reason"),
    [
        (CHANGELOG, "0.1.0", "has 0.1.0 already"),
        ("# Changelog\n\n## [Unreleased]\n\n## [0.1.0]\n\n- That.\n", "0.3.0", "has no changes"),
        ("# Changelog\n", "0.3.0", "has no changes"),
    ],
)
def test_nothing_to_release_is_an_error(script, text, version, reason):
    """A release without changes, or of an existing version, is an error."""
    with pytest.raises(script.ReleaseError, match=reason):
        script.cut_changelog(text, version, DATE)


def test_every_extra_is_tried(script):
    """The script has a line for each extra; `dev` is the one that runs the tests."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert script.SMOKE.keys() == {"", *extras["optional-dependencies"]} - {"dev"}
