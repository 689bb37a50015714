"""Tests of imagemint.training.loop.ema."""

import pytest
import torch
from torch import nn

from imagemint.training.loop.ema import compute_ema_weight, recalibrate, update_ema
from imagemint.training.networks import ConditionalGenerator
from imagemint.training.rng import draw_latents


@pytest.fixture
def generator():
    """A small generator with three layers of batch normalisation."""
    torch.manual_seed(0)
    return ConditionalGenerator(4, 3, c_dim=2, base_channels=8, image_channels=1)


def test_half_life_halves_the_weight():
    """After a half-life of images, half of the earlier average is left."""
    kept = 1 - compute_ema_weight(100, 50_000, 0.05, images_seen=10_000_000)
    assert kept ** (50_000 / 100) == pytest.approx(0.5)


def test_half_life_is_shorter_at_the_start():
    """Early on the half-life is a share of the images seen: 5 % of 2,000 here."""
    assert compute_ema_weight(100, 50_000, 0.05, images_seen=2_000) == pytest.approx(0.5)
    assert compute_ema_weight(100, 50_000, 0.05, images_seen=0) == 1.0


def test_average_moves_by_its_weight():
    """Parameters and running statistics move by the weight, and the count of batches does not."""
    averaged, running = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    for tensor in running.state_dict().values():
        tensor.fill_(8)
    update_ema(averaged, running, 0.25)
    assert averaged.weight.tolist() == [2.75, 2.75]
    assert averaged.running_mean.tolist() == [2.0, 2.0]
    assert averaged.num_batches_tracked.item() == 0


def test_recalibrated_statistics_are_measured(generator):
    """The statistics are means over batches of the inputs of each layer in training mode."""
    ready = recalibrate(generator, z_dim=4, num_classes=3, batches=3)
    seen = {}
    for name, layer in generator.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0])
            )
    with torch.no_grad():
        for batch in range(3):
            generator.train()(draw_latents(0, batch, 256, 4), torch.arange(256) % 3)
    assert len(seen) == 3
    for name, inputs in seen.items():
        layer = ready.get_submodule(name)
        means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
        variances = torch.stack([x.var(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
        assert torch.allclose(layer.running_mean, means, atol=1e-6)
        assert torch.allclose(layer.running_var, variances, rtol=1e-4)


def test_recalibration_returns_a_copy(generator):
    """The average itself does not change, and the copy is in evaluation mode."""
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ready = recalibrate(generator, z_dim=4, num_classes=3, batches=1)
    assert not ready.training
    assert generator.training
    assert all(torch.equal(tensor, before[n]) for n, tensor in generator.state_dict().items())


def test_recalibration_without_normalization_changes_nothing():
    """A network without batch normalization keeps its weights."""
    network = nn.Linear(2, 2)
    ready = recalibrate(network, z_dim=2, num_classes=1, batches=1)
    assert torch.equal(ready.weight, network.weight)
