"""Tests of benchmarks/listing.py: the recipe vanilla-mnist compared with the plain listing."""

import copy
from dataclasses import replace

import pytest
import torch
from listing import Measures, run_listing, run_recipe
from plain_gan import PlainGan
from small_runs import CPU, pictures
from torch import nn
from torch.nn.utils import parameters_to_vector

from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.classifier.training import train_classifier
from imagemint.training.loop.start import make_initial_state
from imagemint.training.losses.gan_loss import Batch
from imagemint.training.networks import Shape
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
        shapes = [
            [tuple(parameter.shape) for parameter in side.parameters()] for side in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]


def test_weights_equal_those_of_the_listing(digits):
    """Given one noise for both networks and no dropout, eight steps give the same weights."""
    recipe = VanillaMnistRecipe(dropout=0.0)
    state, plain = make_initial_state(recipe, digits, CPU), PlainGan()
    pairs = [(state.G, plain.G), (state.D, plain.D)]
    for ours, theirs in pairs:
        ours.load_state_dict(
            dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
        )
    for layer in plain.D:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    begin = [parameters_to_vector(theirs.parameters()).detach() for _, theirs in pairs]
    loss = recipe.make_gan_loss(state.G, state.D, Shape(0, 28, 1))
    score, ones = nn.BCELoss(), torch.ones(64, 1)
    zeros = torch.zeros_like(ones)
    rng = torch.Generator().manual_seed(1)
    for step in range(8):
        real = torch.rand(64, 1, 28, 28, generator=rng) * 2 - 1
        z = torch.randn(64, 128, generator=rng)
        fake = plain.G(z)
        plain.opt_D.zero_grad()
        of_real = score(plain.D(real.flatten(1)), ones)
        (of_real + score(plain.D(fake.detach()), zeros)).backward()
        plain.opt_D.step()
        plain.opt_G.zero_grad()
        score(plain.D(fake), ones).backward()
        plain.opt_G.step()

        batch = Batch(
            0, step, state.G, state.D, z, torch.zeros(64, dtype=torch.int64), None, real, state.G(z)
        )
        state.opt_D.zero_grad()
        loss.discriminator_loss(copy.copy(batch), step, 0).total.backward()
        state.opt_D.step()
        state.opt_G.zero_grad()
        loss.generator_loss(batch, step, 0).total.backward()
        state.opt_G.step()
    for (ours, theirs), start in zip(pairs, begin, strict=True):
        mine, other = (parameters_to_vector(each.parameters()) for each in (ours, theirs))
        # Adam enlarges rounding errors of small gradients, on some processors to a tenth of the
        # path of a few weights. So all weights are compared together.
        assert (mine - other).norm() < 4e-3 * (other - start).norm()


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
