"""Tests of imagemint.training.networks.convolutional."""

import pytest
import torch

from imagemint.training.errors import DatasetError
from imagemint.training.networks import (
    ConditionalGenerator,
    ConvolutionalDiscriminator,
    ProjectionDiscriminator,
    Shape,
    VirtuallyNormalisedGenerator,
)
from imagemint.training.networks.convolutional import add_heads, count_doublings
from imagemint.training.networks.layers import VirtualBatchNorm
from imagemint.training.recipes import RECIPES


@pytest.fixture
def generator():
    """A small generator of three classes."""
    torch.manual_seed(0)
    return ConditionalGenerator(4, 3, c_dim=2, base_channels=8, image_channels=1)


@pytest.fixture
def discriminator():
    """A small discriminator of three classes."""
    torch.manual_seed(0)
    return ProjectionDiscriminator(3, base_channels=2, image_channels=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_generator_returns_images(channels):
    """Latents and classes give images [N, C, 28, 28] within -1 and 1."""
    network = ConditionalGenerator(5, 3, c_dim=2, base_channels=4, image_channels=channels)
    images = network(torch.randn(6, 5), torch.arange(6) % 3)
    assert images.shape == (6, channels, 28, 28)
    assert images.abs().max() <= 1


def test_image_depends_on_the_class(generator):
    """One latent gives another image for each class, and an equal image for an equal class."""
    z = torch.randn(1, 4).expand(4, 4)
    first, second, third, again = generator.eval()(z, torch.tensor([0, 1, 2, 0]))
    assert torch.allclose(first, again)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_image_depends_on_the_latent(generator):
    """Two latents of one class give different images."""
    first, second = generator.eval()(torch.randn(2, 4), torch.zeros(2, dtype=torch.int64))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("channels", [1, 3])
def test_discriminator_returns_one_logit_per_image(channels):
    """The number of channels may be 1 or 3."""
    network = ProjectionDiscriminator(3, base_channels=1, image_channels=channels)
    assert network(torch.randn(5, channels, 28, 28), torch.arange(5) % 3).shape == (5,)


def test_discriminator_learns_to_use_the_class(discriminator):
    """The projection starts at zero, where the class has no effect, but has a gradient."""
    x = torch.randn(1, 1, 28, 28).expand(2, 1, 28, 28)
    logits = discriminator(x, torch.tensor([0, 1]))
    assert torch.allclose(logits[0], logits[1])
    logits[0].backward()
    gradient = discriminator.embed.weight.grad
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0
    with torch.no_grad():
        discriminator.embed.weight -= gradient
    first, second = discriminator(x, torch.tensor([0, 1]))
    assert first < second


def test_logits_do_not_depend_on_other_images(discriminator):
    """A gradient penalty per image requires that no image changes another's logit."""
    x = torch.randn(3, 1, 28, 28, requires_grad=True)
    discriminator(x, torch.zeros(3, dtype=torch.int64))[1].backward()
    assert x.grad[1].abs().sum() > 0
    assert x.grad[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize(
    ("size", "expected"), [(28, (7, 2)), (32, (4, 3)), (64, (4, 4)), (24, (6, 2))]
)
def test_sizes_are_factored(size, expected):
    """The size of an image is a number up to 7 times a power of two."""
    assert count_doublings(size) == expected


@pytest.mark.parametrize("size", [7, 25, 30])
def test_sizes_that_cannot_be_halved_are_refused(size):
    """Sizes that are odd or too small are refused with their value."""
    with pytest.raises(DatasetError, match=f"images of {size} pixels"):
        count_doublings(size)


@pytest.mark.parametrize("size", [28, 32, 64])
def test_networks_fit_the_image_size(size):
    """G and D work at any size that can be halved, also without a condition."""
    G = ConditionalGenerator(4, 0, c_dim=0, base_channels=16, image_channels=3, image_size=size)
    images = G(torch.randn(2, 4))
    assert images.shape == (2, 3, size, size)
    D = ProjectionDiscriminator(0, base_channels=2, image_channels=3, image_size=size)
    assert D(images).shape == (2,)
    assert "embed.weight" not in {**G.state_dict(), **D.state_dict()}


@pytest.mark.parametrize("how", ["concatenated", "projected"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_class_changes_the_logit(how, norm):
    """Concatenated or projected, another class gives another logit if its embedding is not zero."""
    D = ConvolutionalDiscriminator(Shape(3, 28, 1), base_channels=2, norm=norm, **{how: True})
    embedding = D.plane if how == "concatenated" else D.embed
    torch.nn.init.normal_(embedding.weight)
    x = torch.randn(1, 1, 28, 28).expand(3, 1, 28, 28)
    logits = D.eval()(x, torch.tensor([0, 1, 0]))
    assert logits[0] != logits[1]
    assert torch.allclose(logits[0], logits[2])


def test_spectral_norm_of_weights_is_one():
    """The largest singular value of each weight is 1, which bounds the slope of D."""
    D = ConvolutionalDiscriminator(Shape(0, 28, 1), base_channels=4, norm="none", spectral=True)
    for _ in range(20):  # each pass takes a step of the power iteration
        D(torch.randn(2, 1, 28, 28))
    weights = [layer.weight for layer in D.modules() if isinstance(layer, torch.nn.Conv2d)]
    for weight in [*weights, D.score.weight]:
        largest = torch.linalg.matrix_norm(weight.flatten(1), ord=2).item()
        assert largest == pytest.approx(1, abs=0.1)


def test_hidden_layer_of_a_head_is_normalised():
    """A head with a hidden layer of 6 features normalises them over the batch, as Q of InfoGAN."""
    D = ConvolutionalDiscriminator(Shape(0, 28, 1), base_channels=2)
    head = add_heads(D, hidden=6, code=5).heads["code"]
    hidden = head[:4](7 * torch.randn(32, D.width) + 3)
    assert hidden.shape == (32, 6)
    assert torch.allclose(hidden.mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(hidden.var(dim=0, unbiased=False), torch.ones(6), atol=1e-3)
    assert head(torch.randn(3, D.width)).shape == (3, 5)


def test_virtual_batch_norm_separates_images():
    """The rest of the batch changes nothing, and training and evaluation mode agree."""
    G = VirtuallyNormalisedGenerator(4, Shape(0, 28, 1), base_channels=8, reference=6)
    z = torch.randn(5, 4)
    together = G(z)
    assert together.shape == (5, 1, 28, 28)
    assert torch.allclose(together[:1], G(z[:1]), atol=1e-5)
    assert torch.allclose(together, G.eval()(z), atol=1e-5)


def test_reference_image_counts_once():
    """A reference image is already in the reference batch. Any other image is added to it."""
    layer = VirtualBatchNorm(2, 6)
    x = torch.randn(9, 2, 3, 3)
    found = layer(x)
    for row in range(9):
        batch = x[:6] if row < 6 else torch.cat([x[:6], x[row : row + 1]])
        mean = batch.mean(dim=(0, 2, 3), keepdim=True)
        variance = batch.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
        expected = (x[row] - mean[0]) / (variance[0] + 1e-5).sqrt()
        assert torch.allclose(found[row], expected, atol=1e-4)


def test_projection_is_spectrally_normalised():
    """The embedding's largest singular value is 1.

    Older runs keep an embedding that starts at 0.
    """
    shape = Shape(10, 28, 1)
    recipe = RECIPES["projection"]
    D = recipe(discriminator_channels=2).make_discriminator(shape)
    for _ in range(20):
        D(torch.randn(2, 1, 28, 28), torch.arange(2))
    assert torch.linalg.matrix_norm(D.eval().embed.weight, ord=2).item() == pytest.approx(
        1, abs=0.1
    )
    before = recipe(**recipe.complete_options({"discriminator_channels": 2})).make_discriminator(
        shape
    )
    assert before.state_dict()["embed.weight"].abs().sum() == 0


@pytest.mark.parametrize("name", RECIPES)
def test_older_runs_keep_their_networks(name):
    """Options that are missing in an older checkpoint get the values of that time."""
    recipe = RECIPES[name]
    ours = recipe(**recipe.complete_options({}))
    shape = Shape(10, 64, 3)
    told = Shape(10 if recipe.condition != "none" else 0, 64, 3)
    names = (
        ours.make_discriminator(shape).state_dict().keys()
        | ours.make_generator(told).state_dict().keys()
    )
    since = ("deviation", "strength", "fixed", "embed.parametrizations")
    assert [each for each in names if any(part in each for part in since)] == []
