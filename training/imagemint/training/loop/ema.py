"""The exponential moving average of the generator, which is exported."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from imagemint.engine.sampling import Distribution
from imagemint.training.networks import draw
from imagemint.training.networks.layers import VirtualBatchNorm
from imagemint.training.rng import draw_latents


def compute_ema_weight(batch_size: int, half_life: int, ramp_up: float, images_seen: int) -> float:
    """Returns the weight of the current generator in one update of the average, 0 to 1.

    The half-life is capped at ``ramp_up`` of the images seen so far, so that the first, poor
    weights are forgotten quickly (Karras et al., StyleGAN 2 ADA, 2020).
    """
    effective = max(min(float(half_life), ramp_up * images_seen), 1e-8)
    return float(1 - 0.5 ** (batch_size / effective))


@torch.no_grad()
def update_ema(averaged: nn.Module, running: nn.Module, weight: float) -> None:
    """Moves parameters and floating buffers of ``averaged`` towards ``running``, in place."""
    ours, theirs = _list_floating(averaged), _list_floating(running)
    torch._foreach_lerp_(ours, theirs, weight)


def _list_floating(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]


def recalibrate(
    averaged: nn.Module,
    *,
    z_dim: int,
    num_classes: int,
    batches: int,
    distribution: Distribution = Distribution.NORMAL,
) -> nn.Module:
    """Returns a copy in evaluation mode whose batch-normalisation statistics are its own.

    The average of the statistics is not the statistics of the average, so they are measured anew
    over ``batches`` of 256 images, after Izmailov et al., "Averaging Weights Leads to Wider Optima"
    (2018). Without classes, num_classes is 0. A network without batch normalisation is returned
    unchanged.
    """
    device = next(averaged.parameters()).device
    classes = (torch.arange(256) % num_classes).to(device) if num_classes else None

    def show(generator: nn.Module) -> None:
        for batch in range(batches):
            z = draw_latents(0, batch, 256, z_dim, distribution)
            draw(generator, z.to(device), classes)

    return measure_statistics(averaged, show)


@torch.no_grad()
def measure_statistics(averaged: nn.Module, show: Callable[[nn.Module], None]) -> nn.Module:
    """Returns a copy in evaluation mode whose batch-normalisation statistics are its own.

    Args:
        averaged: the moving average; a network without batch normalisation is returned unchanged.
        show: passes the batches to measure through the given network.
    """
    generator = copy.deepcopy(averaged)
    measured = nn.BatchNorm2d, VirtualBatchNorm
    layers = [module for module in generator.modules() if isinstance(module, measured)]
    if layers:
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative mean over all batches
        generator.train()
        show(generator)
    return generator.eval()
