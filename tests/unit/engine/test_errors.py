"""Tests of imagemint.engine.errors."""

import re
from pathlib import Path

import pytest

from imagemint.engine import errors

SAMPLES = [
    errors.InvalidRequest([errors.Violation("images.count", "must be 1 or more")]),
    errors.ModelNotFound("cats", ["dogs", "mnist"]),
    errors.VersionNotFound("mnist", "7", [1, 2]),
    errors.ClassUnsupported("faces"),
    errors.CaptionUnsupported("faces"),
    errors.SourceUnsupported("faces"),
    errors.SourceRequired("sketch"),
    errors.VariantMismatch("mnist", 2, "int8", "reference"),
    errors.ScoreUnsupported("mnist", 2, ["realness"], []),
    errors.FilterExhausted(3, 64, 640, 9, "class_confidence up to 0.5"),
    errors.QueueFull("mnist", 0.25),
    errors.Draining(1.0),
    errors.ModelNotReady("mnist", "still loading", 0.5),
    errors.LoadFailed("mnist", "version 2: no checksum"),
    errors.ModelControlRefused("model_control is poll"),
    errors.DeadlinePassed(),
    errors.BackendFailed("the model failed to run"),
    errors.BundleRefused(Path("models/mnist/1"), "checksum mismatch"),
]


def test_lists_name_every_error():
    """SAMPLES and the tree in the module's docstring name every error class of the engine."""
    classes = {cls.__name__ for cls in errors.ImagemintError.__subclasses__()}
    engine = {name for name in classes if hasattr(errors, name)}
    assert {type(sample).__name__ for sample in SAMPLES} == engine
    assert set(re.findall(r"[├└]── (\w+)", errors.__doc__)) == engine


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_error_has_message_reason_and_metadata(error):
    """Every error has a message, a stable reason and metadata of strings."""
    assert str(error) == error.message != ""
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", error.reason)
    assert all(isinstance(value, str) for value in error.metadata.values())


def test_reasons_are_unique():
    """No two error classes share a reason."""
    reasons = [sample.reason for sample in SAMPLES]
    assert len(set(reasons)) == len(reasons)


def test_invalid_request_names_every_violation():
    """The message names all invalid fields, not only the first one."""
    error = errors.InvalidRequest(
        [errors.Violation("images.count", "is 0"), errors.Violation("output.quality", "is 101")]
    )
    assert str(error) == "images.count: is 0; output.quality: is 101"
    assert [v.field for v in error.violations] == ["images.count", "output.quality"]


def test_not_found_lists_what_exists():
    """The message and the metadata list the models or versions that exist."""
    model, version = SAMPLES[1], SAMPLES[2]
    assert "dogs, mnist" in str(model)
    assert model.metadata == {"model": "cats", "known": "dogs,mnist"}
    assert "1, 2" in str(version)
    assert version.metadata == {"model": "mnist", "version": "7", "known": "1,2"}
    assert "none" in str(errors.ModelNotFound("cats", []))
