"""Tests of imagemint.training.loop.schedules."""

from itertools import pairwise

import pytest

from imagemint.training.loop.schedules import compute_learning_rate, has_crossed
from imagemint.training.recipes.mnist import MnistRecipe


def test_learning_rate_ends_at_zero():
    """The learning rate is constant and then falls along half a cosine to zero."""
    recipe = MnistRecipe(images=1_000, decay_share=0.4, learning_rate=0.5)
    sizes = [compute_learning_rate(recipe, n) for n in (0, 600, 800, 1_000)]
    assert sizes == pytest.approx([0.5, 0.5, 0.25, 0.0])
    assert (
        compute_learning_rate(MnistRecipe(images=10, decay_share=0), 10)
        == MnistRecipe().learning_rate
    )


def test_rollback_halves_the_learning_rate():
    """Each rollback halves the learning rate, before and during the decay."""
    recipe = MnistRecipe(images=1_000, decay_share=0.4, learning_rate=0.5)
    assert [compute_learning_rate(recipe, n, 2) for n in (0, 800)] == pytest.approx([0.125, 0.0625])


def test_interval_is_crossed_once():
    """Each multiple is reported by the one step that reaches or passes it."""
    ends = [0, 6, 10, 16, 35, 36]
    assert [has_crossed(a, b, 10) for a, b in pairwise(ends)] == [False, True, False, True, False]
