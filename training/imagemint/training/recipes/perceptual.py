"""Options of a recipe that compares images in the features of a trained classifier."""

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from imagemint.training.losses.perceptual import PerceptualLoss, find_feature_layers
from imagemint.training.recipes.translation import ImageShape


class PerceptualOptions(BaseModel):
    """Options of the perceptual loss."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    perceptual_weight: float = Field(default=1.0, ge=0)
    """Weight of the perceptual loss, in the features of the classifier of --judge; 0: none."""
    perceptual_after: int = Field(default=0, ge=0)
    """Images before the perceptual loss counts."""

    @property
    def needs_judge(self) -> bool:
        """Whether the perceptual loss counts."""
        return self.perceptual_weight > 0

    def make_perceptual_terms(
        self, target: ImageShape, judge: nn.Sequential | None
    ) -> list[PerceptualLoss]:
        """Returns the perceptual loss, or nothing if its weight is 0."""
        if judge is None or self.perceptual_weight == 0:
            return []
        layers = find_feature_layers(judge, target)
        return [PerceptualLoss(self.perceptual_weight, judge, layers, after=self.perceptual_after)]
