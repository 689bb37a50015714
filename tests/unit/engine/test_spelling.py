"""Tests of imagemint.engine.spelling."""

import pytest

from imagemint.engine.errors import ModelNotFound, VersionNotFound
from imagemint.engine.spelling import suggest


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mnits", "; did you mean 'mnist'?"),
        ("MNIST", "; did you mean 'mnist'?"),
        ("sketch", ""),
        ("", ""),
        ("mnist" * 1_000, ""),
    ],
)
def test_similar_name_is_suggested(given, hint):
    """A typing error or another case is similar. Other and very long texts are not."""
    assert suggest(given, ["avatars", "mnist"]) == hint


def test_missing_model_and_version_are_explained():
    """The messages list what exists; a version that is no number is quoted."""
    missing = str(ModelNotFound("mnits", ["avatars", "mnist"]))
    assert missing == "no model 'mnits'; there are avatars, mnist; did you mean 'mnist'?"
    assert str(VersionNotFound("a", " 1", [1])) == "model 'a' has no version ' 1'; there is 1"
