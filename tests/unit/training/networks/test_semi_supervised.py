"""Tests of imagemint.training.networks.semi_supervised."""

import pytest
import torch

from imagemint.training.networks import (
    DenseGenerator,
    DenseSemiSupervisedDiscriminator,
    SemiSupervisedDiscriminator,
    Shape,
)
from imagemint.training.networks.layers import GaussianNoise

SHAPE = Shape(5, 28, 1)


@pytest.fixture
def dense():
    """The dense discriminator of five classes."""
    torch.manual_seed(0)
    return DenseSemiSupervisedDiscriminator(SHAPE)


@pytest.mark.parametrize(
    "network",
    [
        SemiSupervisedDiscriminator(SHAPE, base_channels=2),
        DenseSemiSupervisedDiscriminator(SHAPE),
    ],
    ids=["convolutional", "dense"],
)
def test_logit_is_log_z(network):
    """D(x) = Z / (Z + 1), where Z is the sum of the exponentials of the scores."""
    x, D = torch.randn(2, 1, 28, 28), network.eval()
    Z = D.heads["classes"](D.phi(x, None)).exp().sum(dim=1)
    assert torch.allclose(torch.sigmoid(D(x)), Z / (Z + 1), atol=1e-6)


def test_lengths_of_hidden_weights_stay(dense):
    """Steps of D turn the weight vectors of hidden layers and keep their lengths.

    The lengths of the last layer are learnt.
    """
    dense(torch.rand(8, 1, 28, 28))  # sets the lengths
    before = {name: p.detach().clone() for name, p in dense.named_parameters()}
    optimizer = torch.optim.Adam(dense.parameters(), 1e-2)
    dense(torch.rand(8, 1, 28, 28)).square().mean().backward()
    optimizer.step()
    kept = {name for name, p in dense.named_parameters() if torch.equal(p, before[name])}
    assert kept == {f"features.{layer}.length" for layer in (1, 4, 7, 10, 13)}


def test_noise_comes_before_each_layer(dense):
    """Noise of 0.3 comes before the first layer, and of 0.5 before the others, as published."""
    layers = [*dense.features, *dense.heads["classes"]]
    noises = [layer.deviation for layer in layers if isinstance(layer, GaussianNoise)]
    assert noises == [0.3, 0.5, 0.5, 0.5, 0.5, 0.5]
    x = torch.rand(2, 1, 28, 28)
    assert not torch.equal(dense(x), dense(x))
    assert torch.equal(dense.eval()(x), dense(x))


def test_dense_generator_returns_images():
    """Latents give images [N, C, H, W] within -1 and 1, each its own in evaluation mode."""
    G = DenseGenerator(6, Shape(0, 32, 3))
    z = torch.randn(4, 6)
    G(z)
    images = G.eval()(z)
    assert images.shape == (4, 3, 32, 32)
    assert images.abs().max() <= 1
    assert torch.allclose(images[1:2], G(z[1:2]), atol=1e-6)
