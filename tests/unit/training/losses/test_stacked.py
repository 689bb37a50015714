"""Tests of the losses that recipe `stack` composes."""

import pytest
import torch
from small_runs import small
from torch.nn.functional import interpolate, softplus

from imagemint.training.losses.gan_loss import Batch
from imagemint.training.networks import Shape, make_pyramid
from imagemint.training.recipes.stack import StackRecipe

SHAPE = Shape(10, 64, 3)


@pytest.fixture
def players():
    """The recipe with its tiny networks and losses."""
    torch.manual_seed(0)
    recipe = small(StackRecipe, captions_per_image=1)
    G, D = recipe.make_generator(SHAPE), recipe.make_discriminator(SHAPE)
    for embed in (*D.large.embeds, *D.small.embeds):
        torch.nn.init.normal_(embed.weight)
    return recipe, G, D, recipe.make_gan_loss(G, D, SHAPE)


def make_batch(generator, discriminator):
    """Returns a batch of two people with the images of G."""
    z, c = torch.randn(2, 12), torch.stack([torch.zeros(12), torch.ones(12)]).long()
    real, fake = torch.rand(2, 3, 64, 64), generator(z, c)
    return Batch(0, 0, generator, discriminator, z, c, c, real, fake)


def judge(discriminator, views, c):
    """Returns the judgements by the formula: fitting and alone, for each size."""
    found = []
    for D, alone, x in (
        (discriminator.large, discriminator.alone[0], views[:, :3]),
        (discriminator.small, discriminator.alone[1], views[:, 3:, ::2, ::2]),
    ):
        phi = D.features(x)
        embedded = sum(embed(c[:, k]) for k, embed in enumerate(D.embeds)) / len(D.embeds) ** 0.5
        found += [D.score(phi).squeeze(1) + (embedded * phi).sum(dim=1), alone(phi).squeeze(1)]
    return found


def test_discriminator_loss_equals_the_formula(players):
    """Both terms of both sizes, wrong captions at both sizes, and half of gamma times R1 and R2."""
    recipe, G, D, losses = players
    batch = make_batch(G, D)
    c, fake = batch.c, batch.fake.detach()
    real = make_pyramid(batch.real, 2)
    found = losses.discriminator_loss(batch, 0, 0)
    pairs = list(zip(judge(D, real, c), judge(D, fake, c), strict=True))
    adversarial = sum(softplus(of_fake - of_real).mean() for of_real, of_fake in pairs)
    wrong = judge(D, real, c.flip(0))
    mismatch = sum(softplus(wrong[k] - pairs[k][0]).mean() for k in (0, 2))
    penalties = 0
    for views in (real, fake):
        large = views[:, :3].clone().requires_grad_()
        small_views = views[:, 3:, ::2, ::2].clone().requires_grad_()
        whole = interpolate(small_views, scale_factor=2, mode="nearest")
        for judgement in judge(D, torch.cat([large, whole], dim=1), c):
            slopes = torch.autograd.grad(
                judgement.sum(), (large, small_views), retain_graph=True, allow_unused=True
            )
            penalties += sum(
                slope.square().sum(dim=(1, 2, 3)).mean() for slope in slopes if slope is not None
            )
    parts = dict(found.terms)
    assert found.adversarial.item() == pytest.approx(adversarial.item(), rel=1e-4)
    assert parts["wrong_caption"].item() == pytest.approx(mismatch.item(), rel=1e-4)
    assert (parts["r1"] + parts["r2"]).item() == pytest.approx(penalties.item(), rel=1e-3)
    total = (
        adversarial
        + recipe.wrong_caption_weight * mismatch
        + recipe.penalty_weight / 2 * recipe.penalty_interval * penalties
    )
    assert found.total.item() == pytest.approx(total.item(), rel=1e-3)


def test_generator_loss_equals_the_formula(players):
    """Both terms of both sizes, the difference to the real image at each size, and the reading."""
    recipe, G, D, losses = players
    batch = make_batch(G, D)
    c, fake, real = batch.c, batch.fake, make_pyramid(batch.real, 2)
    found = losses.generator_loss(batch, 0, 0)
    pairs = zip(judge(D, real, c), judge(D, fake, c), strict=True)
    adversarial = sum(softplus(of_real - of_fake).mean() for of_real, of_fake in pairs)
    sizes = zip(fake.split(3, dim=1), real.split(3, dim=1), strict=True)
    difference = sum((ours - theirs).abs().mean() for ours, theirs in sizes)
    reading = dict(found.terms)["reading"]
    total = adversarial + recipe.reconstruction_weight * difference + reading
    assert found.adversarial.item() == pytest.approx(adversarial.item(), rel=1e-4)
    assert found.total.item() == pytest.approx(total.item(), rel=1e-4)
