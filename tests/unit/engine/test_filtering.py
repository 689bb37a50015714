"""Tests of imagemint.engine.filtering."""

import numpy as np
import pytest

from imagemint.engine.errors import FilterExhausted
from imagemint.engine.filtering import (
    INDEX_END,
    ImageFilter,
    Realness,
    Scores,
    ScoreSpec,
    Selection,
    compute_acceptance_chances,
)
from imagemint.engine.sampling import draw_acceptance_numbers

SPEC = ScoreSpec(class_confidence=True, realness=Realness(4.0, 0.0), training_distance=True)


def confidence_of(indices):
    """Returns a score from 0 to 1 that depends only on the index."""
    return ((indices * np.uint64(2654435761)) % np.uint64(1000)).astype(np.float32) / 1000


def choose(image_filter, first_index, count):
    """Returns the indices that a filter chooses, and the number of rejected candidates."""
    selection = Selection(image_filter, SPEC, 7, first_index, count)
    while len(selection.pending):
        indices = selection.next_indices
        selection.settle(Scores(confidence_of(indices), confidence_of(indices) * 4))
    return selection.indices, selection.rejected


def test_the_first_candidate_that_passes_is_chosen():
    """Candidate t of index i is i + t * 2^48; all before the chosen one fail."""
    indices, rejected = choose(ImageFilter(min_class_confidence=0.7), 5, 100)
    for position, (index, tries) in enumerate(
        zip(indices.tolist(), rejected.tolist(), strict=True)
    ):
        candidates = np.uint64([5 + position + t * INDEX_END for t in range(tries + 1)])
        assert index == candidates[-1]
        assert (confidence_of(candidates) >= np.float32(0.7)).tolist() == [False] * tries + [True]
    assert rejected.max() > 3


@pytest.mark.parametrize(
    "image_filter", [ImageFilter(min_class_confidence=0.6), ImageFilter(rejection_sampling=True)]
)
def test_choice_depends_on_the_index_alone(image_filter):
    """Any part of a run gives the same images as the whole."""
    whole, _ = choose(image_filter, 0, 60)
    parts = [choose(image_filter, start, size)[0] for start, size in ((0, 1), (1, 22), (23, 37))]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_acceptance_has_its_own_stream():
    """The numbers are those of NumPy's Philox with key [seed, 3], one word for each index."""
    words = np.random.Philox(key=[7, 3], counter=[0, 0, 0, 0]).random_raw(12)
    expected = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    indices = np.uint64([3, 4, 5, 11, 0])
    assert draw_acceptance_numbers(7, indices).tolist() == expected[indices.astype(int)].tolist()


def test_acceptance_follows_the_paper():
    """Sigmoid of F - log(1 - exp(F - epsilon)) - gamma, and near 1 at the maximum and above."""
    logits = np.float32([-20, 0, 3, 4, 9])
    f = np.float64([-24, -4, -1])
    wanted = 1 / (1 + np.exp(-(f - np.log(1 - np.exp(f - 1e-6)) - 0.5)))
    found = compute_acceptance_chances(logits, Realness(4.0, 0.5))
    assert found[:3] == pytest.approx(wanted)
    assert found[3:].min() > 0.9999


def test_all_conditions_must_hold():
    """A condition that the score does not meet rejects the image."""
    scores = Scores(np.float32([0.9, 0.9, 0.1]), None, np.float32([1.0, 0.2, 1.0]))
    image_filter = ImageFilter(min_class_confidence=0.5, min_training_distance=0.5)
    assert image_filter.accept(scores, SPEC, 0, np.arange(3, dtype=np.uint64)).tolist() == [
        *(True, False, False)
    ]


@pytest.mark.parametrize(
    "image_filter", [ImageFilter(min_class_confidence=1.0), ImageFilter(min_training_distance=1.0)]
)
def test_bounds_are_inclusive(image_filter):
    """A score that equals the minimum passes."""
    scores = Scores(np.float32([1, 0.5]), None, np.float32([1, 0.5]))
    indices = np.arange(2, dtype=np.uint64)
    assert image_filter.accept(scores, SPEC, 0, indices).tolist() == [True, False]


def test_a_filter_that_nothing_passes_says_what_was_seen():
    """The error names index, tries, and the best score."""
    selection = Selection(ImageFilter(min_class_confidence=0.9, max_tries=2), SPEC, 0, 10, 3)
    selection.settle(Scores(np.float32([0.95, 0.2, 0.31])))
    with pytest.raises(
        FilterExhausted, match="index 11 passes the filter with max_tries 2"
    ) as caught:
        selection.settle(Scores(np.float32([0.1, 0.99])))
    assert "of 5 images computed, 2 passed" in str(caught.value)
    assert "class_confidence up to 0.31" in str(caught.value)


def test_best_score_of_an_error_is_below_the_bound():
    """The error shows the best score in full, because a rounded one would seem to pass."""
    selection = Selection(ImageFilter(min_class_confidence=0.99999, max_tries=1), SPEC, 7, 0, 1)
    with pytest.raises(FilterExhausted, match=r"up to 0\.99998, realness up to 0\.5\."):
        selection.settle(Scores(np.float32([0.99998]), np.float32([0.5])))


@pytest.mark.parametrize(
    ("image_filter", "field"),
    [
        (ImageFilter(min_class_confidence=1.1), "min_class_confidence"),
        (ImageFilter(min_class_confidence=float("nan")), "min_class_confidence"),
        (ImageFilter(min_training_distance=-1.0), "min_training_distance"),
        (ImageFilter(min_training_distance=float("inf")), "min_training_distance"),
        (ImageFilter(max_tries=0), "max_tries"),
        (ImageFilter(max_tries=1001), "max_tries"),
    ],
)
def test_faults_are_named(image_filter, field):
    """A value outside its range is a fault of its field."""
    assert list(image_filter.find_faults()) == [field]
    assert not ImageFilter(0.5, True, 0.0, 1).find_faults()
