"""Builds the initial state of a run, and its parts."""

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.distributed import SINGLE_PROCESS, Batchwise, Distributed
from imagemint.training.errors import DatasetError, ProcessesError
from imagemint.training.loop.state import TrainingState
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import Shape
from imagemint.training.networks.layers import BatchNorm2d
from imagemint.training.recipes.options import RunOptions
from imagemint.training.recipes.recipe import Recipe

MEMORY_FORMAT = torch.channels_last
"""Of weights and images, on every device; `benchmarks/passes.py` measures what it is worth."""

_OF_A_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def make_initial_state(
    recipe: Recipe,
    data: LabelledImages,
    device: torch.device,
    processes: Distributed = SINGLE_PROCESS,
) -> TrainingState:
    """Returns fresh networks and optimisers; the weights are a function of ``recipe.seed``.

    Raises:
        DatasetError: the images are not square, or of a size that the networks cannot have.
        ProcessesError: a layer uses a batch in a way that several processes cannot share.
    """
    height, width = data.images.shape[1:3]
    if height != width:
        raise DatasetError(
            f"{data.name}: images of {width}x{height} pixels, but the networks draw squares; set"
            " --size"
        )
    shape = Shape(len(data.class_labels), data.images.shape[1], data.images.shape[-1])
    visible_shape = Shape(
        len(recipe.list_class_labels(data.class_labels)), shape.image_size, shape.image_channels
    )
    with fork_rng(device):
        torch.manual_seed(recipe.seed)
        G = place(recipe.make_generator(visible_shape), device)
        D = place(recipe.make_discriminator(shape), device)
        G_ema = place(recipe.make_generator(visible_shape), device)
        gan_loss = recipe.make_gan_loss(G, D, shape).to(device)
    for part in (G, D, gan_loss):  # not G_ema, which only the first process uses
        _join(part, processes)
    if processes.world_size > 1:
        _refuse_batch_statistics(gan_loss)
    return assemble_state(recipe, G, D, G_ema, gan_loss)


def assemble_state(
    options: RunOptions, G: nn.Module, D: nn.Module, G_ema: nn.Module, losses: nn.Module
) -> TrainingState:
    """Returns the state of step 0: the average equals G, and both networks have an optimiser."""
    G_ema.load_state_dict(G.state_dict())

    def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
        if options.optimizer == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), options.learning_rate, options.beta2)
        betas = (options.beta1, options.beta2)
        return torch.optim.Adam(
            network.parameters(), options.learning_rate, betas, options.adam_epsilon, fused=True
        )

    return TrainingState(
        G=G,
        D=D,
        G_ema=G_ema.requires_grad_(requires_grad=False),
        opt_G=make_optimizer(G),
        opt_D=make_optimizer(D),
        losses=losses,
    )


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Restores the state of PyTorch's generators, of the CPU and of this device."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _join(part: nn.Module, processes: Distributed) -> None:
    for module in part.modules():
        if isinstance(module, Batchwise):
            module.processes = processes
        if (
            processes.world_size > 1
            and isinstance(module, _OF_A_BATCH)
            and not isinstance(module, BatchNorm2d)
        ):
            raise ProcessesError(
                f"{type(module).__name__} would normalise by the part of the batch that its"
                " process has, so the run would differ from that of one process;"
                " use networks.layers.BatchNorm2d, or layers that treat each image alone"
            )


def _refuse_batch_statistics(gan_loss: GanLoss) -> None:
    """Refuses a loss that is not a mean over the images of a batch.

    The gradient of a whole batch is the mean of the gradients of its parts only if the loss is.
    """
    shape = (2, 8, gan_loss.adversarial.judgements)
    fixed = torch.Generator().manual_seed(0)
    real, fake = torch.randn(shape, generator=fixed, dtype=torch.float64).squeeze(2)
    for player in ("discriminator", "generator"):
        loss = getattr(gan_loss.adversarial, player)
        halves = [loss(real[half], fake[half]) for half in (slice(4), slice(4, 8))]
        if not torch.isclose(loss(real, fake), torch.stack(halves).mean()):
            raise ProcessesError(
                f"the loss of the {player} is no mean over the images of a batch, so several"
                " processes would train by another loss than one; use one process"
            )


def place(network: NetworkT, device: torch.device) -> NetworkT:
    """Returns the network on the device, its weights in `MEMORY_FORMAT`."""
    return network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload,no-any-return] # torch's stubs lack this overload
