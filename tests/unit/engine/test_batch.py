"""Tests of imagemint.engine.batch."""

import numpy as np
import pytest
from tiny_bundles import MAX_WORDS, tiny_manifest

from imagemint.engine.batch import Batch, draw_batch
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.engine.spec import ModelSpec

KINDS = {
    "classes": {},
    "plain": {"conditional": False},
    "captions": {"captions": True},
    "psi": {"truncation": "psi"},
    "threshold": {"truncation": "threshold"},
}


def make_spec(kind):
    """Returns the spec of a tiny model of this kind."""
    return ModelSpec.of(tiny_manifest(**KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_batch_has_the_inputs_of_the_graph(kind):
    """A drawn batch has every input of the graph, in order, with its dtype and shape."""
    spec = make_spec(kind)
    batch = draw_batch(spec, 7, 5, 6)
    feed = batch.make_feed(spec.inputs)
    assert list(feed) == list(spec.inputs)
    assert [(each.dtype, each.shape) for each in feed.values()] == [
        (dtype, (6, *row)) for dtype, row in spec.inputs.values()
    ]
    given = {name for name in Batch.__slots__ if getattr(batch, name) is not None}
    assert given == set(spec.inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_batch_has_the_values_of_the_serials(kind):
    """A drawn batch has the latents and classes of a request without a condition, and psi is 1."""
    spec = make_spec(kind)
    batch = draw_batch(spec, 7, 5, 6)
    drawn = draw_classes(7, 5, 6, spec.num_choices) if spec.num_choices else None
    assert batch.z.tobytes() == draw_latents(7, 5, 6, 8).tobytes()
    if spec.conditional:
        assert np.array_equal(batch.class_id, drawn)
    if spec.captions is not None:
        examples = [spec.captions.examples[number] for number in drawn]
        assert np.array_equal(batch.tokens, spec.captions.encode(examples))
    if spec.takes_psi:
        assert batch.truncation.tolist() == [1.0] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_slice_of_a_batch_slices_every_input(kind):
    """A slice of a batch has the same rows of every input."""
    spec = make_spec(kind)
    whole = draw_batch(spec, 7, 0, 9)
    part = whole[2:5]
    assert len(part) == 3
    for name, array in part.make_feed(spec.inputs).items():
        assert np.array_equal(array, whole.make_feed(spec.inputs)[name][2:5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": None}, rf"'tokens' is missing, not int64 \[2, {MAX_WORDS}\]"),
        ({"tokens": np.zeros((2, 3), np.int64)}, r"'tokens' is int64 \[2, 3\]"),
        ({"tokens": np.zeros((1, MAX_WORDS), np.int64)}, r"'tokens' is int64 \[1, 8\]"),
        ({"tokens": np.zeros((2, MAX_WORDS))}, "'tokens' is float64"),
    ],
)
def test_wrong_input_is_named(changes, said):
    """The error names an input that is missing or has the wrong dtype or shape."""
    batch = Batch(draw_latents(0, 0, 2, 8), **changes)
    with pytest.raises(ValueError, match=said):
        batch.make_feed(make_spec("captions").inputs)
