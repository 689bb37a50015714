"""Tests of imagemint.training.loop.schedules."""

from itertools import pairwise

import pytest

from imagemint.training.loop.schedules import has_crossed, learning_rate_at
from imagemint.training.recipes.mnist import MnistRecipe


def test_step_size_ends_at_zero():
    """The step size is constant, then falls along half a cosine to zero at the end."""
    recipe = MnistRecipe(images=1_000, decay_share=0.4, learning_rate=0.5)
    sizes = [learning_rate_at(recipe, n) for n in (0, 600, 800, 1_000)]
    assert sizes == pytest.approx([0.5, 0.5, 0.25, 0.0])
    assert (
        learning_rate_at(MnistRecipe(images=10, decay_share=0), 10) == MnistRecipe().learning_rate
    )


def test_rollback_halves_the_step():
    """Each rollback halves the step size, before the decay and within it."""
    recipe = MnistRecipe(images=1_000, decay_share=0.4, learning_rate=0.5)
    assert [learning_rate_at(recipe, n, 2) for n in (0, 800)] == pytest.approx([0.125, 0.0625])


def test_interval_is_crossed_once():
    """Of steps that end on a multiple or pass one, each is told once, however long they are."""
    ends = [0, 6, 10, 16, 35, 36]
    assert [has_crossed(a, b, 10) for a, b in pairwise(ends)] == [False, True, False, True, False]
