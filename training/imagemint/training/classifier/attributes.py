"""A classifier with several heads: one for the class, and one for each attribute."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.classifier.networks import BATCH, Classifier, to_network
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import DatasetError

_FEATURES = 256
_HIDDEN = -1
_STRIDE = 8


class AttributeClassifier(Classifier):
    """Convolutional classifier whose 256 features serve one dense head for each attribute.

    The first convolution halves the size, so the others cost a quarter.

    Args:
        num_classes: number of classes K.
        values: number of values of each attribute, by its name.
        image_channels: 1 for gray, 3 for RGB.
        image_size: height and width, a multiple of 8.
        width: channels at half the size, doubled twice.
        dropout: share of the features dropped in training.
    """

    feature_layer: ClassVar[str] = "features.relu"

    def __init__(
        self,
        num_classes: int,
        values: Mapping[str, int],
        *,
        image_channels: int = 3,
        image_size: int = 64,
        width: int = 48,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_make_block(image_channels, width, stride=2),
            *_make_block(width, width),
            *_make_block(width, 2 * width, stride=2),
            *_make_block(2 * width, 2 * width),
            *_make_block(2 * width, 4 * width, stride=2),
            nn.Flatten(),
            nn.Linear(4 * width * (image_size // _STRIDE) ** 2, _FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(_FEATURES, num_classes)
        self.heads = nn.ModuleDict({name: nn.Linear(_FEATURES, n) for name, n in values.items()})
        self._shape = image_size, image_size, image_channels

    def takes(self, height: int, width: int, channels: int) -> bool:
        """Returns whether images have the size and the channels of the network."""
        return (height, width, channels) == self._shape

    def make_targets(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns class and attributes int64 [N, 1 + A], -1 for those that a picture does not show.

        Raises:
            DatasetError: the data has other attributes.
        """
        known = {attribute.name: attribute for attribute in data.attributes}
        missing = [name for name, head in self.heads.items() if not _fits(head, known.get(name))]
        if missing:
            raise DatasetError(
                f"{data.name} has no attribute {', '.join(missing)} with the values that the judge"
                " knows"
            )
        columns = [data.labels]
        for name in self.heads:
            visible = known[name].visible
            codes = known[name].codes
            columns.append(codes if visible is None else np.where(visible, codes, _HIDDEN))
        return np.stack(columns, axis=1)

    def compute_loss(self, x: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Returns the sum of all cross-entropies for ``x`` [N, C, H, W] and ``y`` [N, 1 + A]."""
        phi = self.dropout(self.features(x))
        total = F.cross_entropy(self.logits(phi), y[:, 0], label_smoothing=label_smoothing)
        for column, head in enumerate(self.heads.values(), start=1):
            entropy = F.cross_entropy(
                head(phi),
                y[:, column],
                ignore_index=_HIDDEN,
                reduction="sum",
                label_smoothing=label_smoothing,
            )
            total = total + entropy / (y[:, column] != _HIDDEN).sum().clamp_min(1)
        return total

    @torch.no_grad()
    def predict_attributes(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
        """Returns the most likely value of each attribute, int64 [N], of uint8 [N, H, W, C]."""
        device = self.logits.weight.device
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.heads}
        for start in range(0, len(images), BATCH):
            phi = self.features(to_network(images[start : start + BATCH]).to(device))
            for name, head in self.heads.items():
                found[name].append(head(phi).argmax(dim=1).cpu().numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def report(self, test: LabelledImages) -> dict[str, Any]:
        """Returns ``attribute_accuracy``: the share of visible values recognised, by attribute."""
        predicted = self.predict_attributes(test.images)
        targets = self.make_targets(test)[:, 1:]
        accuracy = {}
        for column, (name, codes) in enumerate(predicted.items()):
            visible = targets[:, column] != _HIDDEN
            accuracy[name] = float((codes == targets[:, column])[visible].mean())
        return {"attribute_accuracy": accuracy}


def _fits(head: nn.Module, attribute: Any) -> bool:  # noqa: ANN401 - an Attribute or None
    return attribute is not None and getattr(head, "out_features", 0) == len(attribute.values)


def _make_block(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 2 + stride, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
