"""Tests of imagemint.training.networks.stacked."""

import pytest
import torch
from torch import nn

from imagemint.training.datasets.avatars import VALUES, compute_frequencies
from imagemint.training.networks import Shape, StackedDiscriminator, StackedGenerator, make_pyramid

SHAPE = Shape(10, 64, 3)
TABLES = {name: compute_frequencies(name) for name in VALUES}
NUMBERS = [table.shape[1] for table in TABLES.values()]
PEOPLE = torch.stack([torch.zeros(12), torch.ones(12)]).long()


@pytest.fixture
def generator():
    """A tiny generator of people."""
    torch.manual_seed(0)
    widths = {"c_dim": 2, "base_channels": 16, "refine_channels": 8}
    return StackedGenerator(16, SHAPE, frequencies=TABLES, **widths)


@pytest.fixture
def discriminator():
    """A tiny discriminator of people whose embeddings are not zero."""
    torch.manual_seed(0)
    D = StackedDiscriminator(SHAPE, base_channels=2, values=NUMBERS)
    for embed in (*D.large.embeds, *D.small.embeds):
        nn.init.normal_(embed.weight)
    return D


def test_generator_returns_both_sizes_in_training(generator):
    """The first picture has 64 pixels a side, and the second one 32, each of them repeated."""
    z = torch.randn(2, 16)
    large, small = generator(z, PEOPLE).split(3, dim=1)
    assert large.shape == small.shape == (2, 3, 64, 64)
    reduced = small[:, :, ::2, ::2]
    assert torch.equal(small, reduced.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert torch.allclose(reduced, generator.first(z, PEOPLE), atol=1e-6)
    assert generator.eval()(z, PEOPLE).shape == (2, 3, 64, 64)


def test_second_stage_joins_features_and_condition(generator):
    """It depends on either where nothing else tells it the condition, and not on the latent."""
    second = generator.second.eval()
    h, c, told = torch.randn(2, 8, 16, 16), torch.randn(2, 24), torch.zeros(2, 29)
    assert second.join.in_channels == 8 + 24
    images = second(h, c, told)
    assert images.shape == (2, 3, 64, 64)
    # By its formula at a place far from the border: features of the place, and the condition.
    around = torch.cat([h[:, :, 4:7, 4:7], c[:, :, None, None].expand(-1, -1, 3, 3)], dim=1)
    joined = (second.join.weight[None] * around[:, None]).sum(dim=(2, 3, 4))
    seen = []
    second.join.register_forward_hook(lambda _, __, out: seen.append(out))
    second(h, c, told)
    assert torch.allclose(seen[0][:, :, 5, 5], joined, atol=1e-5)
    assert not torch.allclose(second(h.flip(0), c, told), images, atol=1e-3)
    assert not torch.allclose(second(h, c.flip(0), told), images, atol=1e-3)


def test_second_stage_trains_the_first(generator):
    """The gradient of the large picture reaches all of the first stage but its own picture."""
    generator(torch.randn(2, 16), PEOPLE)[:, :3].square().sum().backward()
    first = generator.first.named_parameters()
    untouched = {name for name, each in first if not each.grad.abs().sum() > 0}
    assert untouched == {"paint.weight", "paint.bias"}


def test_join_has_no_latent(generator):
    """Latents that draw the same attributes join the same condition."""
    joined = []
    generator.second.register_forward_pre_hook(lambda _, given: joined.append(given[1]))
    generator(torch.randn(2, 16), PEOPLE)
    generator(torch.randn(2, 16), PEOPLE)
    embedded = [generator.first.condition.embed, *generator.first.condition.attributes]
    expected = torch.cat([each(PEOPLE[:, k]) for k, each in enumerate(embedded)], dim=1)
    assert torch.equal(joined[0], expected)
    assert torch.equal(joined[1], expected)


def test_discriminator_judges_each_size_twice(discriminator):
    """Two judgements are those of a discriminator of the size, and two do not use the condition."""
    x = torch.randn(2, 3, 64, 64)
    views = make_pyramid(x, 2)
    phi = discriminator.phi(views, PEOPLE)
    logits = discriminator.logits(phi, PEOPLE)
    small = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.allclose(logits[:, 0], discriminator.large(x, PEOPLE), atol=1e-5)
    assert torch.allclose(logits[:, 1], discriminator.small(small, PEOPLE), atol=1e-5)
    for column, (score, features) in enumerate(
        zip(discriminator.alone, phi.split(discriminator.widths, dim=1), strict=True), start=2
    ):
        alone = features @ score.weight[0] + score.bias
        assert torch.allclose(logits[:, column], alone, atol=1e-5)
    other = discriminator.logits(phi, PEOPLE.flip(0))
    fitting, alone = StackedDiscriminator.CONDITIONAL, StackedDiscriminator.UNCONDITIONAL
    assert (other[:, fitting] != logits[:, fitting]).all()
    assert torch.equal(other[:, alone], logits[:, alone])
    assert torch.equal(discriminator(views, PEOPLE), logits.sum(dim=1))


def test_sizes_are_judged_apart(discriminator):
    """The large picture does not change judgements of the small one, nor the other way round."""
    views = make_pyramid(torch.randn(2, 3, 64, 64), 2)
    logits = discriminator.logits(discriminator.phi(views, PEOPLE), PEOPLE)
    for size, (own, others) in enumerate((([0, 2], [1, 3]), ([1, 3], [0, 2]))):
        changed = views.clone()
        changed[:, 3 * size : 3 * size + 3] += 0.5
        found = discriminator.logits(discriminator.phi(changed, PEOPLE), PEOPLE)
        assert (found[:, own] != logits[:, own]).all()
        assert torch.equal(found[:, others], logits[:, others])
