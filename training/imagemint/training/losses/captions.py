"""Losses of caption models."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from imagemint.training.losses.adversarial import AdversarialLoss
from imagemint.training.losses.gan_loss import Batch, Regularizer
from imagemint.training.networks.captions import CaptionGenerator

DrawCaptions = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""Returns captions, as tokens int64 [N, L], and which values they allow, float32 [N, values], for
people int64 [N, 1 + A], a seed and a position."""


class CaptionReading(Regularizer):
    """Trains the reader of G on captions of the people in the batch.

    Args:
        weight: weight of the cross-entropy.
        draw: draws the captions.
    """

    def __init__(self, weight: float, draw: DrawCaptions) -> None:
        super().__init__(weight)
        self.draw = draw

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``reading``: the binary cross-entropy, summed over the values."""
        if batch.c is None or not isinstance(batch.G, CaptionGenerator):
            raise TypeError("this loss needs a generator that reads captions")
        # Captions are drawn for the whole batch, so that they do not depend on the processes.
        people = self.processes.all_gather(batch.c)
        tokens, allowed = map(
            self.processes.select_local_part, self.draw(people, batch.seed, batch.position)
        )
        logits = batch.G.reader(tokens.to(batch.c.device))
        entropy = F.binary_cross_entropy_with_logits(logits, allowed.to(logits), reduction="sum")
        return {"reading": entropy / len(logits)}


class WrongCaption(Regularizer):
    """Trains D to reject real images with the caption of another image of the batch.

    Reed et al., "Generative Adversarial Text to Image Synthesis" (2016), GAN-CLS. It is only for a
    D whose features do not depend on the caption: it reuses them and costs very little.
    """

    def __init__(self, weight: float, adversarial: AdversarialLoss) -> None:
        super().__init__(weight)
        self.adversarial = adversarial

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``wrong_caption``."""
        if batch.c is None:
            raise ValueError("the recipe has no condition")
        others = torch.roll(self.processes.all_gather(batch.c), 1, dims=0)
        logits = batch.D.logits(batch.phi_real, self.processes.select_local_part(others))
        return {"wrong_caption": self.adversarial.discriminator(batch.real_logits, logits)}
