"""The critic of a bundle: a second graph, which scores images.

It can have three scores, from networks that training has produced: the class confidence of a
classifier, the logit of the discriminator, calibrated on images that it has not seen, and the
distance to the nearest training image in the features of the classifier.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from torch import Tensor, nn

from imagemint.engine import BackendFailed, BundleRefused
from imagemint.engine.backend import Backend
from imagemint.engine.batch import Feed, draw_batch, select_rows
from imagemint.engine.bundle.critic import CRITIC_FILE
from imagemint.engine.filtering import Realness, compute_acceptance_chances
from imagemint.engine.onnx.session import create_cpu_session, get_first_line
from imagemint.engine.spec import ModelSpec
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import build_critic_graph
from imagemint.training.classifier.networks import Classifier
from imagemint.training.datasets import LabelledImages
from imagemint.training.networks import Discriminator
from imagemint.v1 import manifest_pb2 as pb

Score = Literal["class", "discriminator", "copies"]

# far from the seeds that users choose, and from those of the calibration of variants
_CALIBRATION_SEED = 2**63 + 1
_MOST_IMAGES = 5_000
_COMPONENTS = 32
_BATCH = 250
_CHECKED_IMAGES = 64
_SCORE_TOLERANCE = 0.01


@dataclass(frozen=True)
class CriticParts:
    """The parts of a critic.

    Attributes:
        scores: the scores that it has.
        classifier: a classifier with the classes of the model, for `class` and `copies`.
        metadata: content of its ``classifier.json``.
        discriminator: the discriminator, for `discriminator`.
        train: the training images, for `copies`.
        test: images that no network has seen, for `discriminator` and `copies`.
        accepted_share: share of generated images that rejection sampling accepts.
    """

    scores: Sequence[Score]
    classifier: Classifier | None = None
    metadata: dict[str, Any] | None = None
    discriminator: Discriminator | None = None
    train: LabelledImages | None = None
    test: LabelledImages | None = None
    accepted_share: float = 0.5


class _Confidence(nn.Module):
    """Probability of the requested class."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None  # noqa: S101 - for the type checker: only models with classes have it
        probabilities = self.classifier.logits(self.classifier.features(x)).softmax(dim=1)
        chosen: Tensor = probabilities.gather(1, y).squeeze(1)
        return chosen


class _Realness(nn.Module):
    """Calibrated logit of the discriminator."""

    def __init__(self, discriminator: Discriminator, slope: float, offset: float) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.slope, self.offset = slope, offset

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        logits: Tensor = self.discriminator(x, None if y is None else y.squeeze(1))
        return logits * self.slope + self.offset


class _Distance(nn.Module):
    """Distance to the nearest training image, in units of the median distance of test images."""

    def __init__(self, classifier: Classifier, train: LabelledImages, test: LabelledImages) -> None:
        super().__init__()
        self.features = classifier.features
        features, _ = classifier.extract(train.images)
        mean = features.mean(axis=0)
        _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("axes", torch.from_numpy(axes[:_COMPONENTS].T.copy()).float())
        known = (features - mean) @ axes[:_COMPONENTS].T
        scale = float(np.abs(known).max()) or 1.0  # the largest float16 is 65504
        self.register_buffer("known", torch.from_numpy(known / scale).half())
        self.scale = scale
        with torch.no_grad():
            unseen = [self._measure(_prepare(part)) for part in _cut(test.images)]
        self.unit = float(torch.cat(unseen).median()) or 1.0

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        del y
        return self._measure(x) / self.unit

    def _measure(self, x: Tensor) -> Tensor:
        known = self.get_buffer("known").float() * self.scale
        found = (self.features(x) - self.get_buffer("mean")) @ self.get_buffer("axes")
        products = found @ known.T
        squares = found.square().sum(dim=1, keepdim=True) + known.square().sum(dim=1)
        nearest: Tensor = (squares - 2 * products).amin(dim=1).clamp_min(0).sqrt()
        return nearest


class _Critic(nn.Module):
    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, image: Tensor, class_id: Tensor | None = None) -> tuple[Tensor, ...]:
        x = _prepare(image)
        return tuple(part(x, class_id) for part in self.parts)


def _prepare(image: Tensor | NDArray[np.uint8]) -> Tensor:
    """Returns float32 [N, C, H, W] in [-1, 1] for uint8 [N, H, W, C]."""
    levels = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _cut(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    kept = images[:_MOST_IMAGES]
    return [kept[start : start + _BATCH] for start in range(0, len(kept), _BATCH)]


def add_critic(
    directory: Path,
    spec: ModelSpec,
    backend: Backend,
    manifest: pb.BundleManifest,
    critic_parts: CriticParts,
) -> None:
    """Writes critic.onnx beside model.onnx, and declares it in the manifest.

    Args:
        directory: the bundle.
        spec: the model.
        backend: computes its images.
        manifest: the manifest; it is changed.
        critic_parts: the parts of the critic.

    Raises:
        ExportError: a part is missing, or does not fit the model; or the scores of the graph differ
            from those of PyTorch.
    """
    parts: dict[str, nn.Module] = {}
    critic = pb.Critic()
    if "class" in critic_parts.scores:
        if not spec.conditional:
            raise ExportError(
                "the critic's class score is the probability of the requested class, and"
                " the model has no classes"
            )
        classifier, judge = _get_classifier(critic_parts, spec)
        parts["class_confidence"] = _Confidence(classifier)
        critic.class_confidence.protocol = f"softmax of {judge}"
    if "discriminator" in critic_parts.scores:
        parts["realness"], calibrated = _calibrate(critic_parts, spec, backend)
        critic.realness.CopyFrom(calibrated)
    if "copies" in critic_parts.scores:
        classifier, judge = _get_classifier(critic_parts, spec)
        if critic_parts.train is None or critic_parts.test is None:
            raise ExportError("the distance to training images needs the training and test images")
        distance = _Distance(classifier, critic_parts.train, critic_parts.test)
        parts["training_distance"] = distance
        critic.training_distance.protocol = (
            f"Euclidean distance to the nearest of {len(critic_parts.train):,} images of"
            f" {critic_parts.train.name}, in"
            f" {distance.get_buffer('axes').shape[1]} main components of the features of {judge};"
            f" unit: {distance.unit:.4g}, the median of"
            f" {min(len(critic_parts.test), _MOST_IMAGES):,} images of {critic_parts.test.name}"
        )
    shape = (spec.height, spec.width, spec.channels)
    module = _Critic([*parts.values()])
    graph = build_critic_graph(module, shape, [*parts], classes=spec.conditional)
    content = graph.SerializeToString(deterministic=True)
    _check_scores(content, module, [*parts], spec, backend)
    manifest.critic.CopyFrom(critic)
    manifest.critic.sha256 = hashlib.sha256(content).hexdigest()
    (directory / CRITIC_FILE).write_bytes(content)


@torch.no_grad()
def _check_scores(
    content: bytes, module: nn.Module, names: Sequence[str], spec: ModelSpec, backend: Backend
) -> None:
    """Compares the scores of generated images, one at a time as they are served, with PyTorch's.

    Raises:
        ExportError: they differ, or the graph does not run.
    """
    batch = draw_batch(spec, _CALIBRATION_SEED, 0, _CHECKED_IMAGES)
    images = backend.run(batch)
    inputs: Feed = {"image": images}
    if batch.class_id is not None:
        inputs["class_id"] = batch.class_id[:, np.newaxis]
    expected = module(*(torch.from_numpy(each) for each in inputs.values()))
    try:
        session = create_cpu_session(content, 1, Path(CRITIC_FILE))
        rows = [
            session.run_all(select_rows(inputs, row, row + 1), names) for row in range(len(images))
        ]
    except (BackendFailed, BundleRefused) as error:
        raise ExportError(
            f"{CRITIC_FILE} does not run: {get_first_line(error.__cause__ or error)}"
        ) from error
    for number, name in enumerate(names):
        found = np.concatenate([row[number] for row in rows])
        wanted = expected[number].numpy()
        # Scores decide by thresholds, so they need no more digits.
        if not np.allclose(found, wanted, rtol=_SCORE_TOLERANCE, atol=_SCORE_TOLERANCE):
            raise ExportError(
                f"{CRITIC_FILE} differs from PyTorch in {name} by up to"
                f" {float(np.abs(found - wanted).max()):.3g}"
            )


def _get_classifier(critic_parts: CriticParts, spec: ModelSpec) -> tuple[Classifier, str]:
    """Returns the classifier, and its description."""
    if critic_parts.classifier is None or critic_parts.metadata is None:
        raise ExportError("the critic needs a classifier")
    labels = tuple(critic_parts.metadata["class_labels"])
    if spec.class_labels and labels != spec.class_labels:
        raise ExportError(f"the classifier has the classes {labels}, the model {spec.class_labels}")
    if not critic_parts.classifier.takes(spec.height, spec.width, spec.channels):
        raise ExportError(f"the classifier does not accept images of {spec.height}x{spec.width}")
    described = (
        f"judge {critic_parts.metadata['recipe']}, SHA-256 {critic_parts.metadata['sha256'][:16]},"
        f" test accuracy {critic_parts.metadata['test_accuracy']:.4f}"
    )
    return critic_parts.classifier, described


def _calibrate(
    critic_parts: CriticParts, spec: ModelSpec, backend: Backend
) -> tuple[nn.Module, pb.RealnessScore]:
    """Returns the score of the discriminator, and its calibration for rejection sampling.

    Platt scaling: a logistic regression tells test images from generated ones by the logit alone.
    The trained logit itself is not calibrated, and has seen the training images.
    """
    if critic_parts.discriminator is None or critic_parts.test is None:
        raise ExportError("the score of the discriminator needs the discriminator and test images")
    count = min(_MOST_IMAGES, len(critic_parts.test))
    batches = [
        draw_batch(spec, _CALIBRATION_SEED, start, min(_BATCH, count - start))
        for start in range(0, count, _BATCH)
    ]
    fake = np.concatenate(
        [
            _judge(critic_parts.discriminator, backend.run(batch), batch.class_id)
            for batch in batches
        ]
    )
    labels = critic_parts.test.labels if spec.conditional else None
    real = np.concatenate(
        [
            _judge(
                critic_parts.discriminator,
                part,
                None if labels is None else labels[start : start + len(part)],
            )
            for start, part in zip(
                range(0, count, _BATCH), _cut(critic_parts.test.images[:count]), strict=True
            )
        ]
    )
    slope, offset = _fit_platt(real, fake)
    if slope <= 0:
        raise ExportError("the discriminator does not prefer real images, so it has no score")
    logits = (fake * slope + offset).astype(np.float32)
    maximum = float(logits.max())
    shift = _find_shift(logits, maximum, critic_parts.accepted_share)
    share = float(compute_acceptance_chances(logits, Realness(maximum, shift)).mean())
    protocol = (
        f"logit of the discriminator, times {slope:.4g}, plus {offset:.4g}: logistic regression on"
        f" {count:,} images of {critic_parts.test.name} and as many generated ones, seed"
        f" {_CALIBRATION_SEED}"
    )
    score = pb.RealnessScore(protocol=protocol, maximum=maximum, shift=shift, accepted_share=share)
    return _Realness(critic_parts.discriminator, slope, offset), score


@torch.no_grad()
def _judge(
    discriminator: Discriminator, images: NDArray[np.uint8], classes: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    y = None if classes is None else torch.from_numpy(classes)
    logits: NDArray[np.float64] = discriminator(_prepare(images), y).double().numpy()
    return logits


def _fit_platt(real: NDArray[np.float64], fake: NDArray[np.float64]) -> tuple[float, float]:
    """Returns slope and offset that convert logits to the log-odds of being real."""
    spread = float(np.concatenate([real, fake]).std()) or 1.0

    def loss(weights: NDArray[np.float64]) -> float:
        slope, offset = weights
        return float(
            np.logaddexp(0, -(real / spread * slope + offset)).mean()
            + np.logaddexp(0, fake / spread * slope + offset).mean()
        )

    slope, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    return float(slope) / spread, float(offset)


def _find_shift(logits: NDArray[np.float32], maximum: float, share: float) -> float:
    """Returns gamma with which this share of the images is accepted on average."""

    def excess(shift: float) -> float:
        return float(compute_acceptance_chances(logits, Realness(maximum, shift)).mean()) - share

    # The smallest of these accepts every image, also if the logits are far apart.
    return float(brentq(excess, min(float(logits.min()) - maximum, 0.0) - 100.0, 100.0))
