"""Tests of imagemint.training.networks.mlp."""

import torch

from imagemint.training.networks import MlpDiscriminator, MlpGenerator, Shape
from imagemint.training.networks.mlp import one_hot


def test_networks_have_the_widths_of_the_lecture():
    """G goes from 128 through 256, 512 and 1024 to 784 pixels, and D goes back."""
    shape = Shape(0, 28, 1)
    G, D = MlpGenerator(128, shape), MlpDiscriminator(shape)
    widths = [[p.shape[0] for n, p in net.named_parameters() if "bias" in n] for net in (G, D)]
    assert widths == [[256, 512, 1024, 784], [1024, 512, 256, 1]]
    images = G(torch.randn(3, 128))
    assert images.shape == (3, 1, 28, 28)
    assert images.abs().max() <= 1
    assert D(images).shape == (3,)


def test_class_is_concatenated():
    """With classes, the output of both networks depends on the class."""
    shape = Shape(3, 28, 1)
    G, D = MlpGenerator(4, shape, width=8).eval(), MlpDiscriminator(shape, width=8).eval()
    z, x = torch.randn(1, 4).expand(2, 4), torch.randn(1, 1, 28, 28).expand(2, 1, 28, 28)
    y = torch.tensor([0, 2])
    assert not torch.allclose(*G(z, y))
    assert not torch.allclose(*D(x, y))
    assert one_hot(y, 3).tolist() == [[1, 0, 0], [0, 0, 1]]
