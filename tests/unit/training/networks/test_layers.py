"""Tests of imagemint.training.networks.layers."""

import pytest
import torch

from imagemint.training.networks import MinibatchDeviation, MinibatchDiscrimination
from imagemint.training.networks.layers import Dropout, normalize_pixels


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
