"""Tests of imagemint.training.networks.layers."""

import pytest
import torch

from imagemint.training.networks import MinibatchDeviation, MinibatchDiscrimination
from imagemint.training.networks.layers import (
    Dropout,
    GaussianNoise,
    WeightNormLinear,
    normalize_pixels,
)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3, 3)])
def test_pixel_norm_has_unit_power(shape):
    """At each position the mean square over the features is 1, and their direction is kept."""
    x = 7 * torch.randn(shape)
    normal = normalize_pixels(x)
    assert torch.allclose(normal.square().mean(dim=1), torch.ones(()), atol=1e-5)
    assert torch.allclose(normal * x.norm(dim=1, keepdim=True) / 5**0.5, x, atol=1e-4)


def test_minibatch_discrimination_detects_equal_images():
    """Equal images count one per kernel, and distant images count zero."""
    layer = MinibatchDiscrimination(4, kernels=3, dims=2)
    torch.nn.init.constant_(layer.project.weight, 10.0)
    x = torch.tensor([[0.0] * 4, [0.0] * 4, [9.0] * 4])
    added = layer(x)[:, 4:]
    assert torch.allclose(added, torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3]), atol=1e-5)


def test_minibatch_deviation_is_one_number():
    """All images get the same number, which is near zero for a batch of equal images."""
    layer = MinibatchDeviation()
    assert layer(torch.ones(3, 4))[:, 4].tolist() == pytest.approx([1e-4] * 3)
    varied = layer(torch.tensor([[0.0], [2.0]]))
    assert varied[:, 1].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_dropout_zeroes_its_share(p):
    """A share p of the features is zero, and the others are scaled to keep the mean.

    Gradients pass where features are kept.
    """
    x = torch.ones(500, 401, requires_grad=True)
    layer = Dropout(p)
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        dropped = layer(x)
        other = layer(x)
        torch.manual_seed(1)
        again = layer(x)
    assert torch.equal(dropped, again)
    assert not torch.equal(dropped, other)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    assert dropped.eq(0).float().mean().item() == pytest.approx(p, abs=0.01)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped)
    assert layer.eval()(x) is x


def test_dropout_of_zero_is_the_identity():
    """At p = 0 every feature is unchanged."""
    x = torch.randn(4, 3)
    assert torch.equal(Dropout(0.0)(x), x)


def test_noise_is_normal():
    """Noise has the moments and tails of a normal distribution, and follows PyTorch's seed."""
    x = torch.zeros(500, 401)
    layer = GaussianNoise(0.5)
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        noise = layer(x) / 0.5
        other = layer(x) / 0.5
        torch.manual_seed(1)
        again = layer(x) / 0.5
    assert torch.equal(noise, again)
    assert abs(float((noise * other).mean())) < 0.01
    found = [float(noise.pow(power).mean()) for power in (1, 2, 3, 4)]
    assert found == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert float(noise.gt(1.959964).float().mean()) == pytest.approx(0.025, abs=0.002)
    assert layer.eval()(x) is x


def test_gradient_passes_noise():
    """The gradient of noisy features is that of the features."""
    x = torch.zeros(3, 5, requires_grad=True)
    GaussianNoise(0.3)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 5))


def test_first_batch_standardises_outputs():
    """The first batch gives outputs a mean of 0 and a variance of 1; later batches change nothing.

    In evaluation mode a batch sets nothing.
    """
    layer = WeightNormLinear(7, 4).eval()
    layer(torch.rand(9, 7))
    assert torch.equal(layer.length, torch.ones(4, 1))
    x = 3 + 5 * torch.rand(9, 7)
    found = layer.train()(x)
    assert torch.allclose(found.mean(dim=0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(found.var(dim=0, unbiased=False), torch.ones(4), atol=1e-4)
    length = layer.length.detach().clone()
    layer(torch.rand(9, 7))
    assert torch.equal(layer.length, length)
    assert torch.allclose(layer.compute_weight().norm(dim=1), length[:, 0].abs(), atol=1e-5)
