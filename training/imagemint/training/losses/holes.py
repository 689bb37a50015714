"""The reconstruction loss of hidden pixels."""

from torch import Tensor

from imagemint.training.losses.translation import Term, Translated


class HoleReconstruction(Term):
    """Mean absolute difference of the pixels below the mask.

    The reconstruction loss of context encoders, by absolute values: Pathak et al., "Context
    Encoders: Feature Learning by Inpainting" (2016), equation 1. Pixels outside of the mask do not
    count, because the network copies them.
    """

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``hole``; values are in [-1, 1]."""
        hidden = (batch.source[:, -1:] > 0).to(batch.fake.dtype)
        count = hidden.sum().clamp_min(1) * batch.fake.shape[1]
        return {"hole": ((batch.fake - batch.target).abs() * hidden).sum() / count}
