"""Tests of imagemint.training.networks.residual."""

import pytest
import torch

from imagemint.training.losses.adversarial import zero_centred_penalty
from imagemint.training.networks import ResidualDiscriminator, ResidualGenerator, Shape
from imagemint.training.networks.residual import ResidualBlock


def test_block_starts_as_the_identity():
    """The last convolution starts at zero and has a gradient."""
    block = ResidualBlock(4, expansion=2, groups=2, blocks=3)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.layers[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("size", "classes"), [(28, 0), (32, 3), (64, 0)])
def test_networks_fit_the_shape(size, classes):
    """G and D work at each size, with and without classes, and the images have a sane scale."""
    shape = Shape(classes, size, 3)
    y = torch.arange(4) % classes if classes else None
    G = ResidualGenerator(5, shape, base_channels=32, c_dim=2)
    images = G(torch.randn(4, 5), y)
    assert images.shape == (4, 3, size, size)
    assert 0.2 < images.std().item() < 5
    logits = ResidualDiscriminator(shape, base_channels=32)(images, y)
    assert logits.shape == (4,)


def test_discriminator_can_be_penalised():
    """D has second derivatives, and no image changes another's logit."""
    D = ResidualDiscriminator(Shape(0, 32, 1), base_channels=16)
    x = torch.randn(2, 1, 32, 32, requires_grad=True)
    logits = D(x)
    zero_centred_penalty(logits, x).backward()
    assert all(torch.isfinite(p.grad).all() for p in D.parameters() if p.grad is not None)
    x = torch.randn(2, 1, 32, 32, requires_grad=True)
    D(x)[0].backward()
    assert x.grad[1].abs().sum() == 0
