"""Tests of imagemint.training.networks.changes and of the corresponding losses."""

import pytest
import torch
from torch import nn

from imagemint.training.losses.gradient_difference import GradientDifference
from imagemint.training.losses.holes import HoleReconstruction
from imagemint.training.losses.translation import Translated
from imagemint.training.networks.changes import Corrector, HoleFiller, NextFrame
from imagemint.training.networks.precision import PLAIN


def images(*shape, seed=0):
    """Returns noise in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Constant(nn.Module):
    """Draws one value everywhere, and keeps its input."""

    def __init__(self, channels, value):
        super().__init__()
        self.channels, self.value = channels, value

    def forward(self, x):
        """Returns the value in the size of the source."""
        self.seen = x
        return x.new_full((len(x), self.channels, *x.shape[2:]), self.value)


def batch_of(source, target, fake):
    """Returns a step with these images."""
    return Translated(nn.Identity(), source, target, fake, None, PLAIN)


def test_filler_copies_outside_the_hole():
    """Only pixels below the mask change, and the network does not see the original ones."""
    source = images(2, 4, 8, 8)
    source[:, 3] = -1
    source[:, 3, 2:5, 1:4] = 1
    network = Constant(3, 0.25)
    found = HoleFiller(network)(source)
    hole = source[:, 3:] > 0
    assert torch.equal(found[~hole.expand_as(found)], source[:, :3][~hole.expand_as(found)])
    assert (found[hole.expand_as(found)] == 0.25).all()
    assert (network.seen[:, :3][hole.expand_as(found)] == 0).all()
    assert torch.equal(network.seen[:, 3], source[:, 3])
    secret = torch.where(hole, -source[:, :3], source[:, :3])
    again = HoleFiller(network)(torch.cat([secret, source[:, 3:]], dim=1))
    assert torch.equal(again, found)


def test_gate_keeps_the_last_frame():
    """With a closed gate the next frame is the last one, with an open one it is drawn."""
    source = images(1, 12, 4, 4)
    assert torch.equal(NextFrame(Constant(4, -1.0), 3)(source), source[:, 9:])
    assert (NextFrame(Constant(4, 1.0), 3)(source) == 1).all()


def test_corrector_adds():
    """The output of the network is added to the source."""
    source = images(1, 3, 4, 4)
    assert torch.allclose(Corrector(Constant(3, 0.5))(source), source + 0.5)


def test_gradient_difference_is_the_formula():
    """It is the mean difference of the absolute steps, over both directions."""
    fake, target = images(2, 3, 5, 6), images(2, 3, 5, 6, seed=1)
    found = GradientDifference()(batch_of(fake, target, fake))["gradient_difference"]
    steps = [
        ((fake[:, :, 1:] - fake[:, :, :-1]).abs(), (target[:, :, 1:] - target[:, :, :-1]).abs()),
        ((fake[..., 1:] - fake[..., :-1]).abs(), (target[..., 1:] - target[..., :-1]).abs()),
    ]
    assert found == pytest.approx(float(sum((a - b).abs().mean() for a, b in steps) / 2))
    mirrored = GradientDifference()(batch_of(fake, -fake, fake))
    assert mirrored["gradient_difference"] == 0


def test_hole_reconstruction_counts_the_hole_only():
    """Only errors below the mask count, as the mean over its pixels."""
    source, target = images(1, 4, 8, 8), images(1, 3, 8, 8, seed=1)
    source[:, 3] = -1
    source[:, 3, :2, :2] = 1
    outside = target.clone()
    outside[:, :, 5:] += 1
    assert HoleReconstruction()(batch_of(source, target, outside))["hole"] == 0
    inside = target.clone()
    inside[:, :, 0, 0] += 0.4
    found = HoleReconstruction()(batch_of(source, target, inside))["hole"]
    assert found == pytest.approx(0.1, abs=1e-6)
