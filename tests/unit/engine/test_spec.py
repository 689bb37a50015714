"""Tests of imagemint.engine.spec."""

import math

import numpy as np
import pytest
from tiny_bundles import EXAMPLES, MAX_WORDS, WORDS, tiny_manifest

from imagemint.engine.captions import Captions
from imagemint.engine.sampling import Distribution
from imagemint.engine.spec import ModelSpec, Truncation, TruncationKind
from imagemint.v1 import manifest_pb2 as pb


def test_spec_is_read_from_a_manifest():
    """A valid manifest gives a plain frozen spec."""
    spec = ModelSpec.of(tiny_manifest(truncation="threshold"))
    assert spec == ModelSpec(
        name="tiny",
        z_dim=8,
        distribution=Distribution.NORMAL,
        truncation=Truncation(TruncationKind.THRESHOLD, 0.25, 4.0),
        class_labels=tuple("0123456789"),
        height=4,
        width=6,
        channels=1,
    )
    assert (spec.num_classes, spec.conditional, spec.image_bytes) == (10, True, 24)


def test_unconditional_spec_has_no_classes():
    """A manifest without labels gives an unconditional spec."""
    spec = ModelSpec.of(tiny_manifest(conditional=False))
    assert (spec.num_classes, spec.conditional, spec.truncation) == (0, False, None)


def test_spec_has_the_captions_of_the_manifest():
    """A manifest with captions declares the input `tokens` and no class."""
    spec = ModelSpec.of(tiny_manifest(captions=True))
    assert spec.captions == Captions(WORDS, MAX_WORDS, EXAMPLES)
    assert (spec.conditional, spec.num_choices) == (False, len(EXAMPLES))


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, {"z": (np.float32, (8,)), "class_id": (np.int64, (1,))}),
        ({"conditional": False, "z_dim": 3}, {"z": (np.float32, (3,))}),
        ({"captions": True}, {"z": (np.float32, (8,)), "tokens": (np.int64, (MAX_WORDS,))}),
        (
            {"truncation": "psi"},
            {
                "z": (np.float32, (8,)),
                "class_id": (np.int64, (1,)),
                "truncation": (np.float32, (1,)),
            },
        ),
    ],
)
def test_spec_lists_the_inputs_of_the_graph(options, inputs):
    """A spec has the name, dtype and row shape of every input, in the order of the graph."""
    found = ModelSpec.of(tiny_manifest(**options)).inputs
    assert list(found.items()) == [(name, (np.dtype(d), row)) for name, (d, row) in inputs.items()]


@pytest.mark.parametrize(
    ("truncation", "kinds"),
    [(None, (False, False)), ("psi", (True, False)), ("threshold", (False, True))],
)
def test_spec_has_the_kind_of_truncation(truncation, kinds):
    """A model takes psi, a threshold or neither."""
    spec = ModelSpec.of(tiny_manifest(truncation=truncation))
    assert (spec.takes_psi, spec.takes_threshold) == kinds


CAPTION_FAULTS = {
    "a class or a caption": lambda m: m.class_labels.append("x"),
    "caption.max_words is 0": lambda m: m.caption.ClearField("max_words"),
    "caption.max_words is 257": lambda m: setattr(m.caption, "max_words", 257),
    "caption.vocabulary has 0 words": lambda m: m.caption.ClearField("vocabulary"),
    "caption.vocabulary is not unique": lambda m: m.caption.vocabulary.append("red"),
    "'Red' is not lower": lambda m: m.caption.vocabulary.append("Red"),
    "'red hair' is not lower": lambda m: m.caption.vocabulary.append("red hair"),
    "caption.examples are missing": lambda m: m.caption.ClearField("examples"),
    "or not unique": lambda m: m.caption.examples.append("round glasses"),
    "'green hair': unknown word 'green'": lambda m: m.caption.examples.append("green hair"),
    "'Red hair' is not in its normal form": lambda m: m.caption.examples.append("Red hair"),
}


@pytest.mark.parametrize("said", CAPTION_FAULTS)
def test_invalid_captions_of_a_manifest_are_refused(said):
    """The error names the field of the captions that is out of its documented range."""
    manifest = tiny_manifest(captions=True)
    CAPTION_FAULTS[said](manifest)
    with pytest.raises(ValueError, match="manifest: ") as caught:
        ModelSpec.of(manifest)
    assert said in str(caught.value)


def _set_threshold(manifest, low, high):
    accepted = manifest.latent.truncation
    accepted.kind, accepted.minimum, accepted.maximum = pb.TRUNCATION_KIND_THRESHOLD, low, high


def _set_psi(manifest, low, high):
    _set_threshold(manifest, low, high)
    manifest.latent.truncation.kind = pb.TRUNCATION_KIND_PSI


FAULTS = {
    "format_version": lambda m: m.ClearField("format_version"),
    "name 'Tiny'": lambda m: setattr(m, "name", "Tiny"),
    "name ''": lambda m: m.ClearField("name"),
    "name '../x'": lambda m: setattr(m, "name", "../x"),
    "name 'aaaa": lambda m: setattr(m, "name", "a" * 65),
    "title": lambda m: setattr(m, "title", "two\nlines"),
    "latent.z_dim": lambda m: setattr(m.latent, "z_dim", 65_537),
    "latent.z_dim is 0": lambda m: m.latent.ClearField("z_dim"),
    "latent.distribution": lambda m: m.latent.ClearField("distribution"),
    "truncation.kind": lambda m: setattr(m.latent.truncation, "minimum", 0.5),
    "a threshold is above 0": lambda m: _set_threshold(m, 0.0, 1.0),
    "range 2.0 to 1.0": lambda m: _set_threshold(m, 2.0, 1.0),
    "range nan to 1.0": lambda m: _set_threshold(m, math.nan, 1.0),
    "leaves 0 to 1": lambda m: _set_psi(m, 0.0, 1.5),
    "class_labels are not unique": lambda m: m.class_labels.append("3"),
    "class_labels holds an empty": lambda m: m.class_labels.append(""),
    "image.height": lambda m: setattr(m.image, "height", 8_193),
    "image.width": lambda m: setattr(m.image, "width", 0),
    "image.channels": lambda m: setattr(m.image, "channels", 4),
    "precision": lambda m: m.ClearField("precision"),
    "share in parity": lambda m: setattr(m.parity, "differing_share", 1.5),
    "count in parity": lambda m: setattr(m.parity, "max_difference", -1),
    "parity.batch_sizes": lambda m: m.parity.batch_sizes.append(0),
    "training.images_seen": lambda m: setattr(m.training, "images_seen", -1),
    "training.checkpoint_sha256": lambda m: setattr(m.training, "checkpoint_sha256", "ABC"),
    "training.options_json": lambda m: setattr(m.training, "options_json", "{"),
    "evaluations[0].metric": lambda m: m.evaluations.add(value=1.0),
    "evaluations[0] is not finite": lambda m: m.evaluations.add(metric="x", value=math.nan),
    "evaluations[0].sample_size": lambda m: m.evaluations.add(metric="x", sample_size=-1),
}


@pytest.mark.parametrize("said", FAULTS)
def test_invalid_manifest_is_refused(said):
    """The error names the field of the manifest that is out of its documented range."""
    manifest = tiny_manifest()
    FAULTS[said](manifest)
    with pytest.raises(ValueError, match="manifest: ") as caught:
        ModelSpec.of(manifest)
    assert said in str(caught.value)


def test_uniform_latents_take_no_threshold():
    """A threshold is defined for the normal distribution only."""
    manifest = tiny_manifest(truncation="threshold")
    manifest.latent.distribution = pb.LATENT_DISTRIBUTION_UNIFORM
    with pytest.raises(ValueError, match="needs the normal distribution"):
        ModelSpec.of(manifest)


def test_all_faults_of_a_manifest_are_listed():
    """The error for an empty manifest lists every missing field."""
    with pytest.raises(ValueError, match="manifest: ") as caught:
        ModelSpec.of(pb.BundleManifest())
    for field in ("format_version", "name", "z_dim", "distribution", "height", "precision"):
        assert field in str(caught.value)


def test_newer_manifest_format_is_refused():
    """The error for a newer format does not report other fields of the manifest."""
    manifest = tiny_manifest()
    manifest.format_version = 2
    manifest.ClearField("name")
    with pytest.raises(ValueError, match="format 2 is newer than 1") as caught:
        ModelSpec.of(manifest)
    assert "name" not in str(caught.value)
