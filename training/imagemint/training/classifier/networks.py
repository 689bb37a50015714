"""Convolutional classifiers, whose features evaluation compares."""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.datasets import LabelledImages

_FEATURES = 128
BATCH = 500
"""Images in one pass of a classifier."""


class Classifier(nn.Module, ABC):
    """A network that ends in features, dropout and logits.

    Attributes:
        feature_layer: the layer whose output is the feature space of distances: the last one before
            the logits.
    """

    feature_layer: ClassVar[str]
    features: nn.Module
    dropout: nn.Dropout
    logits: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [N, K] for ``x`` [N, C, H, W] in [-1, 1]."""
        logits: Tensor = self.logits(self.dropout(self.features(x)))
        return logits

    def make_targets(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns the targets of each image: its class, int64 [N]."""
        return data.labels

    def compute_loss(self, x: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Returns the loss of images ``x`` [N, C, H, W] with rows ``y`` of `make_targets`."""
        return F.cross_entropy(self(x), y, label_smoothing=label_smoothing)

    def report(self, test: LabelledImages) -> dict[str, Any]:
        """Returns further figures of the test set for ``classifier.json``."""
        del test
        return {}

    @abstractmethod
    def takes(self, height: int, width: int, channels: int) -> bool:
        """Returns whether the network takes images of this shape."""

    @torch.no_grad()
    def extract(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns features float64 [N, d] and logits float64 [N, K] for uint8 [N, H, W, C]."""
        device = self.logits.weight.device
        features, logits = [], []
        for start in range(0, len(images), BATCH):
            phi = self.features(to_network(images[start : start + BATCH]).to(device))
            features.append(phi.double().cpu().numpy())
            logits.append(self.logits(phi).double().cpu().numpy())
        return np.concatenate(features), np.concatenate(logits)

    def compute_feature_maps(self, x: Tensor) -> list[Tensor]:
        """Returns the activations at each depth, [N, c, h, w] each, of ``x`` [N, C, H, W]."""
        found = []
        for layer in self.features.children():
            x = layer(x)
            if isinstance(layer, nn.ReLU | _Residual | _PooledStage) and x.ndim == 4:  # noqa: PLR2004 - maps
                found.append(x)
        return found

    def judge(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns features float64 [N, d] and classes int64 [N] for uint8 [N, H, W, C]."""
        features, logits = self.extract(images)
        return features, logits.argmax(axis=1)


class DigitClassifier(Classifier):
    """Convolutional classifier of 28x28 images with 128 penultimate features.

    Args:
        num_classes: number of classes K.
        image_channels: 1 for gray, 3 for RGB.
        width: channels at full size; doubled once.
        dropout: share of the features dropped in training.
    """

    feature_layer = "features.relu"

    def __init__(
        self,
        num_classes: int,
        *,
        image_channels: int = 1,
        width: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_make_block(image_channels, width),
            *_make_block(width, width),
            nn.MaxPool2d(2),
            *_make_block(width, 2 * width),
            *_make_block(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * 7 * 7, _FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(_FEATURES, num_classes)
        self._channels = image_channels

    def takes(self, height: int, width: int, channels: int) -> bool:
        """Returns whether images are 28x28, and have the channels of the network."""
        return (height, width, channels) == (28, 28, self._channels)


class _PoolingClassifier(Classifier):
    """A classifier of images of any size from a smallest one; its features are means of maps."""

    feature_layer = "features.pool"
    smallest: ClassVar[int]
    image_channels: int

    def takes(self, height: int, width: int, channels: int) -> bool:
        """Returns whether images have the channels of the network and its smallest size."""
        return min(height, width) >= self.smallest and channels == self.image_channels


class ResidualClassifier(_PoolingClassifier):
    """Small residual network; its features are the means of its last maps.

    He et al., "Identity Mappings in Deep Residual Networks" (2016): normalise, activate, convolve.

    Args:
        num_classes: number of classes K.
        image_channels: 1 for gray, 3 for RGB.
        width: channels at full resolution; four times as many are the features.
        blocks: residual blocks at each of three resolutions.
        dropout: share of the features dropped in training.
    """

    smallest = 8

    def __init__(
        self,
        num_classes: int,
        *,
        image_channels: int = 3,
        width: int = 32,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        stages = [
            _Residual(
                inputs=width * 2 ** max(stage - (block == 0), 0),
                outputs=width * 2**stage,
                stride=2 if stage and block == 0 else 1,
            )
            for stage in range(3)
            for block in range(blocks)
        ]
        self.features = nn.Sequential(
            nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
            *stages,
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(4 * width, num_classes)
        self.image_channels = image_channels


class PooledClassifier(_PoolingClassifier):
    """Pairs of convolutions with maximum pooling; its features are the means of its last maps.

    The network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), with ReLU and
    without the whitening of its first layer. It has most of its weights at small resolutions, so it
    learns in fewer epochs than a residual network that takes as long for each.

    Args:
        num_classes: number of classes K.
        image_channels: 1 for gray, 3 for RGB.
        width: channels at half the resolution; four times as many are the features.
        dropout: share of the features dropped in training.
    """

    smallest = 9

    def __init__(
        self, num_classes: int, *, image_channels: int = 3, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        first = max(3 * width // 8, 1)
        widths = [first, width, 2 * width, 4 * width]
        self.features = nn.Sequential(
            nn.Conv2d(image_channels, first, 2),
            nn.ReLU(),
            *(_PooledStage(inputs, outputs) for inputs, outputs in pairwise(widths)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(4 * width, num_classes)
        self.image_channels = image_channels


class _PooledStage(nn.Module):
    """Two convolutions with normalisation and ReLU, the first of them pooled to half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.relu(self.norm2(self.conv2(h)))


class _Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); x by a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        # A 1x1 convolution with a stride of 2 and few channels corrupts the heap in oneDNN's
        # backward pass with channels-last tensors (torch 2.13.0, AVX-512), so the rows and columns
        # are selected first.
        kept = x[:, :, :: self._stride, :: self._stride]
        out: Tensor = self.skip(kept) + self.conv2(F.relu(self.norm2(h)))
        return out


def _make_block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def to_network(images: NDArray[np.uint8]) -> Tensor:
    """Returns the input of a judge, float32 [N, C, H, W] in [-1, 1], for uint8 [N, H, W, C]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)
