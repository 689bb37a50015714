"""Path length regularisation of a style-based generator."""

import math

import torch
from torch import Tensor

from imagemint.training.losses.gan_loss import Batch, Regularizer
from imagemint.training.networks import StyleGenerator


class PathLength(Regularizer):
    """Keeps the change of the picture per step in ``w`` equal at every place and direction.

    Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2019), section 3.2: the
    squared difference between the length of J^T y, for noise y, and its running mean. As there it
    comes every eighth step, on half of the batch, and the mean moves by a hundredth.

    Args:
        weight: 2 in the paper's code.
        interval: steps between two computations.
    """

    mean: Tensor
    _SHARE = 0.01
    _PART = 2

    def __init__(self, weight: float, interval: int = 8) -> None:
        super().__init__(weight, interval)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``path``."""
        G = batch.G
        if not isinstance(G, StyleGenerator):
            raise TypeError(f"{type(G).__name__} has no intermediate latents")
        w = G.mapping(batch.z[: -(-len(batch.z) // self._PART)])
        styles = [w.clone() for _ in G.noise]  # for the gradient by each convolution's own style
        images = G.synthesize(styles)
        noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
        gradients = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)
        lengths = torch.stack(gradients).square().sum(dim=2).mean(dim=0).sqrt()
        mean = self.mean.lerp(self.processes.all_reduce_mean(lengths.mean()), self._SHARE)
        self.mean.copy_(mean.detach())
        return {"path": (lengths - mean).square().mean()}
