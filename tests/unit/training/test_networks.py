"""Tests of imagemint.training.networks."""

import pytest
import torch

from imagemint.training.networks import ConditionalGenerator, ProjectionDiscriminator


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
def test_generator_draws_images(channels):
    """Latents and classes become images [N, C, 28, 28] within -1 and 1."""
    network = ConditionalGenerator(5, 3, c_dim=2, base_channels=4, image_channels=channels)
    images = network(torch.randn(6, 5), torch.arange(6) % 3)
    assert images.shape == (6, channels, 28, 28)
    assert images.abs().max() <= 1


def test_class_changes_the_image(generator):
    """One latent gives another picture for each class, and the same for the same."""
    z = torch.randn(1, 4).expand(4, 4)
    first, second, third, again = generator.eval()(z, torch.tensor([0, 1, 2, 0]))
    assert torch.allclose(first, again)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_latent_changes_the_image(generator):
    """One class has many pictures."""
    first, second = generator.eval()(torch.randn(2, 4), torch.zeros(2, dtype=torch.int64))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("channels", [1, 3])
def test_discriminator_gives_a_logit_each(channels):
    """Each image gets one logit, of any number of channels."""
    network = ProjectionDiscriminator(3, base_channels=1, image_channels=channels)
    assert network(torch.randn(5, channels, 28, 28), torch.arange(5) % 3).shape == (5,)


def test_discriminator_learns_to_heed_the_class(discriminator):
    """The projection starts at zero, so classes count alike at first, but has a gradient."""
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


def test_discriminator_judges_images_alone(discriminator):
    """No image changes another's logit, or a gradient penalty would not be per image."""
    x = torch.randn(3, 1, 28, 28, requires_grad=True)
    discriminator(x, torch.zeros(3, dtype=torch.int64))[1].backward()
    assert x.grad[1].abs().sum() > 0
    assert x.grad[[0, 2]].abs().sum() == 0
