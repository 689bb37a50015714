"""Extractors: networks that compute features and classes of images."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch.nn.functional import normalize

from imagemint.training.classifier.attributes import AttributeClassifier
from imagemint.training.classifier.networks import Classifier, to_network
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets import DATASETS, LabelledImages
from imagemint.training.datasets.stacked import STACK
from imagemint.training.errors import CheckpointError, DatasetError, TrainingError

_INCEPTION_DIGEST = "6726825d"  # start of the SHA-256 of the published file
_INCEPTION_LAYER = "2048"
_BATCH = 64
_SHOWN = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extracted:
    """Features and classes of N images.

    Attributes:
        features: float64 [N, d].
        log_probabilities: log-probability of each class, float64 [N, K].
    """

    features: NDArray[np.float64]
    log_probabilities: NDArray[np.float64]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The most likely class of each image: int64 [N]."""
        likeliest: NDArray[np.int64] = self.log_probabilities.argmax(axis=1)
        return likeliest

    def __getitem__(self, rows: NDArray[np.int64]) -> "Extracted":
        return Extracted(self.features[rows], self.log_probabilities[rows])


class Extractor(Protocol):
    """Computes features and classes of images.

    Attributes:
        description: name, digest, layer and accuracy, for protocols.
        sha256: digest of its weights.
        accuracy: share of its test set that it classifies correctly; None if unknown.
        trained_on: data set and split whose classes it knows; None for other classes.
        class_labels: these classes by index; None if they are those of the data set by definition.
    """

    description: str
    sha256: str
    accuracy: float | None
    trained_on: str | None
    class_labels: tuple[str, ...] | None

    def extract(self, images: NDArray[np.uint8]) -> Extracted:
        """Returns the features and classes of images uint8 [N, H, W, C].

        Raises:
            DatasetError: the images have a shape that it does not take.
        """


class Judge:
    """A classifier that imagemint trained.

    Args:
        directory: directory that `imagemint train mnist-classifier` or `image-classifier` wrote.
        device: device to compute on.

    Raises:
        CheckpointError: there is no classifier.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._model: Classifier
        self._model, metadata = load_classifier(directory, device)
        self.sha256: str = metadata["sha256"]
        self.accuracy: float | None = metadata["test_accuracy"]
        self.trained_on: str | None = metadata["trained_on"]
        self.class_labels: tuple[str, ...] | None = tuple(metadata["class_labels"])
        self.description = (
            f"judge {metadata['recipe']}, SHA-256 {self.sha256[:16]},"
            f" test accuracy {self.accuracy:.4f}, layer {metadata['feature_layer']}"
        )
        heads: dict[str, float] = metadata.get("attribute_accuracy", {})
        self.attribute_names = frozenset(heads)
        if heads:
            accuracies = ", ".join(f"{name} {share:.4f}" for name, share in heads.items())
            self.description += f", accuracy by attribute: {accuracies}"

    def extract(self, images: NDArray[np.uint8]) -> Extracted:
        """Returns the features of the named layer, and the classes that it was trained on."""
        if not self._model.takes(*images.shape[1:]):
            raise DatasetError(f"the judge does not accept images of {list(images.shape[1:])}")
        features, logits = self._model.extract(images)
        return Extracted(features, log_softmax(logits, axis=1))

    @torch.no_grad()
    def compute_distances(
        self, images: NDArray[np.uint8], others: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Returns the difference of pairs of images in the activations, float64 [N].

        At each depth the activations of a place are scaled to length 1; the squared differences are
        averaged over the places and added up over the depths. This is LPIPS (Zhang et al., "The
        Unreasonable Effectiveness of Deep Features", 2018) without learnt weights, on this judge.

        Args:
            images: uint8 [N, H, W, C].
            others: as `images`.
        """
        device = self._model.logits.weight.device
        parts = []
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            both = (to_network(each[rows]).to(device) for each in (images, others))
            depths = zip(*(self._model.compute_feature_maps(x) for x in both), strict=True)
            differences = [
                (normalize(a) - normalize(b)).square().sum(dim=1).mean(dim=(1, 2))
                for a, b in depths
            ]
            parts.append(torch.stack(differences).sum(dim=0).double().cpu().numpy())
        return np.concatenate(parts)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Returns whether it takes images of this height, width and number of channels."""
        return self._model.takes(*shape)

    def predict_attributes(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
        """Returns the most likely value of each attribute, int64 [N], by name; {} if none.

        Args:
            images: uint8 [N, H, W, C].
        """
        if not isinstance(self._model, AttributeClassifier):
            return {}
        return self._model.predict_attributes(images)


class StackedJudge:
    """A judge of gray digits, applied to each channel of stacks: a thousand classes.

    Args:
        digits: the judge of one digit.
    """

    accuracy: float | None = None
    class_labels: tuple[str, ...] | None = None

    def __init__(self, digits: Extractor) -> None:
        self._digits = digits
        self.description = f"{digits.description}, on each of three channels, features side by side"
        self.sha256 = hashlib.sha256(f"stacked {digits.sha256}".encode()).hexdigest()
        self.trained_on: str | None = f"stacked-{digits.trained_on}"

    def extract(self, images: NDArray[np.uint8]) -> Extracted:
        """Returns the features of the channels side by side, and the 1000 joint classes."""
        if images.shape[-1] != STACK:
            raise DatasetError(
                f"stacks have three channels, but these images have {images.shape[-1]}"
            )
        red, green, blue = (
            self._digits.extract(np.ascontiguousarray(images[..., [channel]]))
            for channel in range(STACK)
        )
        joint = (
            red.log_probabilities[:, :, None, None]
            + green.log_probabilities[:, None, :, None]
            + blue.log_probabilities[:, None, None, :]
        )
        features = np.concatenate([red.features, green.features, blue.features], axis=1)
        return Extracted(features, joint.reshape(len(images), -1))


class Inception:
    """The standard Inception network, from a file of weights; nothing is downloaded.

    Its classes are those of ImageNet, so it cannot recognise the requested classes.

    Args:
        weights: ``pt_inception-2015-12-05-6726825d.pth`` (FID's own weights, converted).
        device: device to compute on.

    Raises:
        CheckpointError: it is not that file.
        TrainingError: torch-fidelity is installed and does not work.
    """

    accuracy: float | None = None
    trained_on: str | None = None
    class_labels: tuple[str, ...] | None = None

    def __init__(self, weights: Path, device: torch.device) -> None:
        try:
            self.sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{weights}: {error}") from error
        if not self.sha256.startswith(_INCEPTION_DIGEST):
            # The file is a pickle, which can run any code, so only the published file is opened.
            raise CheckpointError(
                f"{weights}: SHA-256 begins {self.sha256[:8]}, that of the published Inception"
                f" weights {_INCEPTION_DIGEST}"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 - an extra
                FeatureExtractorInceptionV3,
            )
        except RuntimeError as error:
            raise TrainingError(
                f"torch-fidelity does not load ({error}); its torchvision must be built for"
                f" torch {torch.__version__}"
            ) from error
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            [_INCEPTION_LAYER, "logits_unbiased"],
            feature_extractor_weights_path=str(weights),
        ).to(device)
        self._device = device
        self.description = (
            f"Inception v3 of FID, SHA-256 {self.sha256[:16]}, layer {_INCEPTION_LAYER}"
        )

    @torch.no_grad()
    def extract(self, images: NDArray[np.uint8]) -> Extracted:
        """Returns pool features [N, 2048] and ImageNet's 1008 classes; gray is converted to RGB."""
        coloured = np.broadcast_to(images, (*images.shape[:3], 3))
        features, logits = [], []
        for i in range(0, len(images), _BATCH):
            x = torch.from_numpy(coloured[i : i + _BATCH].transpose(0, 3, 1, 2).copy())
            phi, scores = self._network(x.to(self._device))
            features.append(phi.double().cpu().numpy())
            logits.append(scores.double().cpu().numpy())
        return Extracted(np.concatenate(features), log_softmax(np.concatenate(logits), axis=1))


def judge_of_classes(judge: Extractor | None, data: LabelledImages) -> Extractor | None:
    """Returns the judge if it knows the classes of the data by index, otherwise None.

    Data of one name can have other classes: another column of labels, or another folder of that
    name. This is logged. Names for the classes of a published data set do not change what they are.
    """
    if judge is None or judge.trained_on is None:
        return None
    if _get_data_set(judge.trained_on) != _get_data_set(data.name):
        return None
    ours, theirs = data.class_labels, judge.class_labels
    if theirs is None or theirs == ours:
        return judge
    if _get_data_set(data.name) in DATASETS and len(theirs) == len(ours):
        return judge
    _log.warning(
        "the judge knows the classes %s and not those of %s, %s, so figures that need its classes"
        " are left out",
        *(describe_classes(theirs), data.name, describe_classes(ours)),
    )
    return None


def _get_data_set(split: str) -> str:
    return split.rpartition("/")[0]


def describe_classes(class_labels: tuple[str, ...]) -> str:
    """Returns the first ten names of classes as one text."""
    ellipsis = ", ..." if len(class_labels) > _SHOWN else ""
    return ", ".join(class_labels[:_SHOWN]) + ellipsis


def open_extractor(
    classifier: Path | None, inception: Path | None, device: torch.device
) -> tuple[Extractor, Extractor | None]:
    """Returns the extractor of features, and that of the requested classes, which may be None.

    Raises:
        CheckpointError: neither is given, or one does not exist.
    """
    judge = None if classifier is None else Judge(classifier, device)
    if inception is not None:
        return Inception(inception, device), judge
    if judge is None:
        raise CheckpointError("no network to compute features: name a --classifier or --inception")
    return judge, judge
