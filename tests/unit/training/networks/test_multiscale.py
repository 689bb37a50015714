"""Tests of imagemint.training.networks.multiscale."""

import torch

from imagemint.training.networks import (
    MultiScaleDiscriminator,
    MultiScaleGenerator,
    Shape,
    make_pyramid,
)

SHAPE = Shape(0, 28, 3)


def test_pyramid_has_every_size():
    """Each image is the mean over squares twice as large. The first one is the image itself."""
    x = torch.randn(2, 3, 28, 28)
    first, second, third = make_pyramid(x, 3).split(3, dim=1)
    assert torch.equal(first, x)
    assert torch.allclose(second[0, 0, :2, :2], x[0, 0, :2, :2].mean().expand(2, 2), atol=1e-6)
    assert torch.allclose(third[1, 2, 24:, 24:], x[1, 2, 24:, 24:].mean().expand(4, 4), atol=1e-6)


def test_generator_returns_a_pyramid_in_training():
    """Training mode returns images of every size, and evaluation mode only the largest."""
    G = MultiScaleGenerator(4, SHAPE, base_channels=8)
    z = torch.randn(2, 4)
    views = G(z)
    assert views.shape == (2, 9, 28, 28)
    assert torch.equal(views[:, :3], G.eval()(z))
    assert torch.equal(views[:, 6:, :4, :4], views[:, 6:, :1, :1].expand(2, 3, 4, 4))


def test_discriminator_uses_every_size():
    """A change in any size changes the logit, and every output layer of G has a gradient."""
    G = MultiScaleGenerator(4, SHAPE, base_channels=8)
    D = MultiScaleDiscriminator(SHAPE, base_channels=8)
    views = G(torch.randn(2, 4))
    logits = D(views)
    for view in range(3):
        other = views.detach().clone()
        other[:, 3 * view : 3 * view + 3] += 0.5
        assert not torch.allclose(D(other), logits)
    logits.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in G.to_image.parameters())


def test_deviation_is_a_feature_of_the_discriminator():
    """The last feature is the mean deviation of the batch, the same for every image."""
    D = MultiScaleDiscriminator(Shape(0, 28, 1), base_channels=8, deviation=True)
    x = make_pyramid(torch.randn(4, 1, 28, 28), 3)
    phi = D.phi(x, None)
    expected = phi[:, :-1].std(dim=0, unbiased=False).mean()
    assert torch.allclose(phi[:, -1], expected.expand(4), atol=1e-4)
    assert D.phi(x[:1].expand(4, -1, -1, -1), None)[:, -1].max() < 1e-3
