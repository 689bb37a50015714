"""Tests of benchmarks/listing.py: the recipe vanilla-mnist compared with the plain listing."""

from dataclasses import replace

import pytest
from listing import Measures, run_listing, run_recipe
from plain_gan import PlainGan
from small_runs import CPU, pictures

from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.classifier.training import train_classifier
from imagemint.training.loop.start import make_initial_state
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe


@pytest.fixture(scope="module")
def digits():
    """Forty images of noise."""
    return pictures(VanillaMnistRecipe)


@pytest.fixture(scope="module")
def measures(digits, tmp_path_factory):
    """Measures with a judge that was trained on the images once, against the inverted images."""
    out = tmp_path_factory.mktemp("judge")
    recipe = MnistClassifierRecipe(epochs=1, batch_size=20, shift=0)
    train_classifier(recipe, digits, digits, out, device=CPU, quiet=True)
    return Measures(digits, replace(digits, images=255 - digits.images), out)


def test_both_sides_have_equal_networks(digits):
    """The plain networks have the shapes of the recipe's layers."""
    state = make_initial_state(VanillaMnistRecipe(), digits, CPU)
    plain = PlainGan()
    for ours, theirs in ((state.G, plain.G), (state.D, plain.D)):
        shapes = [[tuple(each.shape) for each in side.parameters()] for side in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_every_second_epoch_is_measured(digits, measures):
    """Other epochs have only losses, on both sides alike."""
    listing = list(run_listing(digits, measures, 4, seed=0, every=2))
    recipe = run_recipe(digits, measures, 4, seed=0, every=2, batch_size=20)
    for rows in (listing, recipe):
        assert ["coverage" in row for row in rows] == [False, True, False, True]
        assert all(row["loss_G"] > 0 for row in rows)


def test_both_sides_are_measured_at_each_epoch(digits, measures):
    """Two epochs give two rows with the same metrics on both sides."""
    listing = list(run_listing(digits, measures, 2, seed=0))
    recipe = run_recipe(digits, measures, 2, seed=0, batch_size=20)
    assert [row["images"] for row in listing] == [row["images"] for row in recipe] == [40, 80]
    for row in (*listing, *recipe):
        assert row.keys() >= {"loss_D", "loss_G", "frechet_over_floor", "coverage", "spread"}
        assert row["loss_D"] > 0
