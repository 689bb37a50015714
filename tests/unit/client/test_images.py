"""Tests of imagemint.client.images."""

from dataclasses import replace

import numpy as np
import pytest

from imagemint.client import ServerError
from imagemint.client.images import ImageBatch, Scores, Timing, join_batches


@pytest.fixture
def batch():
    """Four images of a model with classes, captions and scores."""
    return ImageBatch(
        model="toys",
        version="3",
        seed=7,
        bundle_sha256="ab" * 32,
        variant="fp32",
        index=np.arange(10, 14, dtype=np.uint64),
        class_id=np.int64([1, 0, 2, 1]),
        serials=tuple(f"toys@3/7/{index}" for index in range(10, 14)),
        captions=("a car", "a doll", "a ball", "a red car"),
        scores=Scores(realness=np.float32([0.5, 1, 2, 3]), rejected=np.int64([0, 4, 0, 1])),
        timing=Timing(0.1, 0.2, 0.3, 0.0),
        image=np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3, 1),
    )


def test_batch_is_a_sequence_of_images(batch):
    """A loop gives batches of one image, each with the origin of its image."""
    for at, one in enumerate(batch):
        assert len(one) == 1
        assert np.array_equal(one.image[0], batch.image[at])
        assert one.serial == batch.serials[at] == f"toys@3/7/{one.index[0]}"
        assert (one.class_id.tolist(), one.captions) == (
            [batch.class_id[at]],
            batch.captions[at : at + 1],
        )
        assert one.scores.by_name().keys() == {"realness"}
        assert one.scores.realness.tolist() == [batch.scores.realness[at]]
        assert one.scores.rejected.tolist() == [batch.scores.rejected[at]]
        assert (one.model, one.version, one.seed) == ("toys", "3", 7)
        assert one.timing is batch.timing
    assert at == 3


@pytest.mark.parametrize("rows", [slice(1, 3), slice(None, None, -2), slice(4, 9)])
def test_slice_of_a_batch_is_a_batch(batch, rows):
    """A slice selects images, labels and scores alike."""
    part = batch[rows]
    assert len(part) == len(part.index) == len(part.serials) == len(range(4)[rows])
    assert np.array_equal(part.image, batch.image[rows])
    assert np.array_equal(part.class_id, batch.class_id[rows])
    assert part.serials == batch.serials[rows]
    assert np.array_equal(part.scores.realness, batch.scores.realness[rows])


@pytest.mark.parametrize("changed", [{"bundle_sha256": "cd" * 32}, {"variant": "int8"}])
def test_images_of_two_bundles_are_not_joined(batch, changed):
    """Calls for the images of one version that meet two servers must agree on its bytes."""
    joined = join_batches([batch[2:], batch[:2]], [2, 3, 0, 1])
    assert joined.serials == batch.serials
    assert np.array_equal(joined.image, batch.image)
    with pytest.raises(ServerError) as caught:
        join_batches([batch[2:], replace(batch[:2], **changed)], [2, 3, 0, 1])
    assert caught.value.reason == "BUNDLE_CHANGED"


def test_scores_are_no_sequence(batch):
    """Scores are columns; a loop over them would give scores of no image."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(batch.scores)


def test_position_counts_from_either_end(batch):
    """A negative position counts from the end, and one outside the batch is an IndexError."""
    assert batch[-1].serial == batch[3].serial == batch[np.int64(3)].serial
    for outside in (4, -5):
        with pytest.raises(IndexError, match=f"{outside} is outside a batch of 4 images"):
            batch[outside]


def test_batch_without_serials_has_none_in_its_parts(batch):
    """Images of explicit latents have neither serials nor classes, captions or scores."""
    bare = ImageBatch(
        **{name: getattr(batch, name) for name in ("model", "version", "bundle_sha256", "variant")},
        **{name: getattr(batch, name) for name in ("index", "timing", "image")},
        seed=None,
        class_id=None,
        serials=(),
    )
    assert (bare[2].serials, bare[2].captions) == ((), ())
    assert (bare[2].class_id, bare[2].scores, bare[2].seed) == (None, None, None)
