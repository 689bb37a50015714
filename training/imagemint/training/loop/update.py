"""One optimiser step."""

import torch
from torch import Tensor, nn

from imagemint.training.distributed import Distributed


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module, processes: Distributed
) -> None:
    """Makes one optimiser step on the loss of the whole batch."""
    optimizer.zero_grad()
    loss.backward()
    processes.average_gradients(network.parameters())
    optimizer.step()
