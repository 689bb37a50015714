"""The gradient difference loss, against blur."""

from torch import Tensor

from imagemint.training.losses.translation import Term, Translated


class GradientDifference(Term):
    """Compares the strength of edges in result and target.

    Mathieu et al., "Deep multi-scale video prediction beyond mean square error" (2016), equation 6
    with alpha 1: a squared or absolute difference favours the average of all possible results,
    which has weaker edges.
    """

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``gradient_difference``; values are in [-1, 1]."""
        parts = [
            (batch.fake.diff(dim=axis).abs() - batch.target.diff(dim=axis).abs()).abs().mean()
            for axis in (2, 3)
        ]
        return {"gradient_difference": (parts[0] + parts[1]) / 2}
