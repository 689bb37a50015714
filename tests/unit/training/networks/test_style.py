"""Tests of imagemint.training.networks.style."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional

from imagemint.training.losses.gan_loss import Batch
from imagemint.training.losses.path_length import PathLength
from imagemint.training.networks import Discriminator, Shape, StyleGenerator
from imagemint.training.networks.style import ModulatedConvolution
from imagemint.training.recipes import RECIPES


@pytest.fixture
def generator():
    """A small generator without classes whose mean w has moved from its initial value."""
    torch.manual_seed(0)
    network = StyleGenerator(
        6, Shape(0, 16, 3), w_dim=4, base_channels=8, mapping_layers=2
    ).requires_grad_(requires_grad=False)
    for _ in range(20):
        network(torch.randn(64, 6))
    return network.eval()


def test_modulation_equals_weights_per_image():
    """Scaling input and output equals a convolution with modulated, demodulated weights."""
    layer = ModulatedConvolution((3, 5), 3, 4)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    style = layer.style(w)
    for image, scales, found in zip(x, style, layer(x, w), strict=True):
        weight = layer.weight * layer.gain * scales[None, :, None, None]
        weight = weight * (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        expected = functional.conv2d(image[None], weight, padding=1)[0]
        assert torch.allclose(found, expected, atol=1e-4)


def test_psi_reduces_variety(generator):
    """At psi 1 nothing changes, at 0 all latents give one image, and between them variety falls."""
    z = torch.randn(8, 6)
    whole = generator(z)
    strength = {psi: generator(z, truncation=torch.full((8, 1), psi)) for psi in (0.0, 0.5, 1.0)}
    assert torch.allclose(strength[1.0], whole, atol=1e-5)
    spread = {psi: images.std(dim=0).mean().item() for psi, images in strength.items()}
    assert spread[0.0] == pytest.approx(0, abs=1e-6)
    assert 0 < spread[0.5] < spread[1.0]


def test_each_image_has_its_own_psi(generator):
    """Images of one batch may have different psi."""
    z = torch.randn(1, 6).expand(2, 6)
    mixed = generator(z, truncation=torch.tensor([[0.0], [1.0]]))
    assert torch.allclose(mixed[1], generator(z)[1], atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1])


def test_mean_w_moves_in_training_only(generator):
    """The mean w moves in training mode and is constant in evaluation mode."""
    before = generator.w_mean.clone()
    generator(torch.randn(64, 6))
    assert torch.equal(generator.w_mean, before)
    generator.train()(torch.randn(64, 6))
    assert not torch.equal(generator.w_mean, before)


def test_image_depends_on_the_class():
    """With classes, one latent gives another image for each class."""
    network = StyleGenerator(6, Shape(3, 16, 3), w_dim=4, base_channels=8, mapping_layers=1)
    first, second = network(torch.randn(1, 6).expand(2, 6), torch.tensor([0, 1]))
    assert not torch.allclose(first, second)


def make_noisy(mixing=0.0):
    """Returns a generator with noise of positive strength."""
    torch.manual_seed(0)
    shape = Shape(0, 16, 1)
    G = StyleGenerator(
        6, shape, w_dim=4, base_channels=8, mapping_layers=2, noise=True, mixing=mixing
    )
    for layer in G.noise:
        torch.nn.init.constant_(layer.strength, 0.5)
    return G


def test_noise_is_constant_in_evaluation():
    """In training mode two passes differ.

    In evaluation mode a latent has one image, in any batch.
    """
    G, z = make_noisy(), torch.randn(4, 6)
    assert not torch.allclose(G(z), G(z))
    G.eval()
    assert torch.equal(G(z), G(z))
    assert torch.allclose(G(z)[1:2], G(z[1:2]), atol=1e-5)
    state = make_noisy().eval()
    state.load_state_dict(G.state_dict())
    assert torch.equal(state(z), G(z))


def test_styles_are_mixed_in_training_only(monkeypatch):
    """Layers before the crossover have the style of z, and later layers another one."""
    G, seen = make_noisy(mixing=1.0), []
    monkeypatch.setattr(G, "synthesize", seen.append)
    z = torch.randn(3, 6)
    G(z)
    w = G.mapping(z)
    (styles,) = seen
    own = [torch.equal(style, w) for style in styles]
    assert own[0]
    assert not own[-1]
    assert own == sorted(own, reverse=True)
    G.eval()(z)
    assert all(torch.equal(each, w) for each in seen[1])


def test_nine_tenths_of_batches_are_mixed(monkeypatch):
    """By default 0.9 of the batches have two styles, from any layer but the first one on."""
    recipe, mixed = RECIPES["style"](z_dim=4, w_dim=4, generator_channels=16), []
    G = recipe.make_generator(Shape(0, 16, 1)).requires_grad_(requires_grad=False)
    monkeypatch.setattr(
        G, "synthesize", lambda styles: mixed.append([style is styles[0] for style in styles])
    )
    z = torch.randn(2, 4)
    for _ in range(1_000):
        G(z)
    # Three standard deviations of the count are 28.
    assert sum(not all(own) for own in mixed) == pytest.approx(900, abs=28)
    counts = Counter(sum(own) for own in mixed if not all(own))
    assert set(counts) == set(range(1, len(G.noise)))
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_path_length_is_the_norm_of_the_jacobian(monkeypatch):
    """The term equals the formula with the whole Jacobian by each style."""
    torch.manual_seed(1)
    G = StyleGenerator(6, Shape(0, 16, 1), w_dim=4, base_channels=8, mapping_layers=2)
    z, term = torch.randn(5, 6), PathLength(2.0)
    y = torch.randn(3, 1, 16, 16)
    monkeypatch.setattr(torch, "randn_like", lambda _: y)
    batch = Batch(0, 0, G, Discriminator(), z, torch.zeros(5), None, z, z)
    found = term(batch)["path"]
    lengths = []
    for image in range(3):
        w = G.mapping(z[image : image + 1])
        jacobians = torch.autograd.functional.jacobian(
            lambda *styles: G.synthesize(styles).flatten(), (w,) * len(G.noise)
        )
        projected = [(y[image].flatten() / 16) @ jacobian[:, 0] for jacobian in jacobians]
        lengths.append(torch.stack([each.square().sum() for each in projected]).mean().sqrt())
    lengths = torch.stack(lengths)
    mean = 0.01 * lengths.mean()
    assert term.mean.item() == pytest.approx(mean.item(), rel=1e-4)
    assert found.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-4)
    found.backward()
    assert G.start.grad.abs().sum() > 0
