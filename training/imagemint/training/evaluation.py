"""Measuring a generator against the real test set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from imagemint.engine.sampling import latents
from imagemint.training.checkpoints import read_generator
from imagemint.training.classifier import load_classifier
from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation_report import EvaluationFigure, write_report
from imagemint.training.metrics import (
    class_accuracy,
    coverage,
    frechet_distance,
    nearest_distances,
)
from imagemint.training.samples import images_of

NEIGHBOURS = 5
_COVERAGE_REAL = 3_000
# A generated image nearer to a training image than this share of the typical distance between a
# test image and its nearest training image is called a copy. Pixel space, where a copy is a copy.
_COPY_SHARE = 0.25
_COPY_SAMPLES = 2_000


@dataclass(frozen=True)
class _Generated:
    images: NDArray[np.uint8]
    class_id: NDArray[np.int64]
    weights_sha256: str | None
    origin: str


def evaluate(
    source: Path,
    classifier: Path,
    data: Path | None,
    *,
    samples: int,
    seed: int,
    device: torch.device,
) -> list[EvaluationFigure]:
    """Returns the figures of a run's averaged generator, or of images in an .npz.

    Those of a run are also written to ``evaluation.json`` beside it, where the exporter finds them.

    Args:
        source: run directory, or .npz with ``image`` uint8 [N, H, W, C] and ``class_id`` int64 [N].
        classifier: directory of the judge.
        data: folder of the data sets.
        samples: images drawn from a run, the classes in turn.
        seed: seed whose indices 0 to samples - 1 are drawn from a run.
        device: where to compute.

    Raises:
        CheckpointError: no run or no classifier there.
        DatasetError: real data missing, or an .npz without the arrays or with others than images
            and classes like the real ones.
    """
    judge, about = load_classifier(classifier, device)
    generated = (
        _from_npz(source) if source.suffix == ".npz" else _from_run(source, samples, seed, device)
    )
    train, test = (load_dataset("mnist", split, data) for split in ("train", "test"))
    _check_like(test, generated)
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    train_sample = rng.permutation(len(train))[: len(test)]
    real, _ = judge.judge(test.images)
    other_real, _ = judge.judge(train.images[train_sample])
    fake, seen = judge.judge(generated.images)
    figures = _Figures(generated, about)

    accuracy = class_accuracy(generated.class_id, seen)
    figures.add(
        "class_accuracy",
        accuracy.mean,
        "share judged to be the class asked for; reference: the judge on the real test set",
        about["test_accuracy"],
    )
    figures.add(
        "worst_class_accuracy",
        accuracy.worst,
        f"the same for the worst class, {accuracy.worst_class}",
    )
    figures.add(
        "frechet_distance",
        frechet_distance(fake, real),
        f"in the judge's features, against the {len(test):,} test images; reference: as many"
        " training images against them (the floor)",
        frechet_distance(other_real, real),
    )
    some = real[rng.permutation(len(real))[:_COVERAGE_REAL]]
    figures.add(
        "coverage",
        coverage(some, fake, NEIGHBOURS),
        f"k = {NEIGHBOURS}, {len(some):,} test images, in the judge's features; reference:"
        " as many training images in place of the generated",
        coverage(some, other_real[: len(fake)], NEIGHBOURS),
    )
    few = rng.permutation(len(generated.images))[:_COPY_SAMPLES]
    copies, typical = _copies(generated.images[few], train.images, test.images[:_COPY_SAMPLES])
    figures.add(
        "training_copies",
        copies,
        f"share of {len(few):,} images whose nearest training image, in pixels, is nearer"
        f" than {_COPY_SHARE} of the median for test images; reference: the test images",
        typical,
    )
    if generated.weights_sha256 is not None:
        write_report(source / "evaluation.json", generated.weights_sha256, figures.found)
    return figures.found


class _Figures:
    """Figures found so far, each with the protocol they share."""

    def __init__(self, generated: _Generated, judge: dict[str, Any]) -> None:
        self.found: list[EvaluationFigure] = []
        self._samples = len(generated.images)
        self._shared = (
            f"{generated.origin}; judge mnist-classifier, SHA-256 {judge['sha256'][:16]},"
            f" test accuracy {judge['test_accuracy']:.4f}, layer {judge['feature_layer']};"
            " command: imagemint evaluate RUN --classifier DIR"
        )

    def add(self, metric: str, value: float, how: str, reference: float | None = None) -> None:
        protocol = f"{how}; {self._shared}"
        self.found.append(EvaluationFigure(metric, value, protocol, self._samples, reference))


def _from_run(run: Path, samples: int, seed: int, device: torch.device) -> _Generated:
    trained = read_generator(run)
    classes = np.arange(samples, dtype=np.int64) % len(trained.class_labels)
    images = images_of(trained.module.to(device), latents(seed, 0, samples, trained.z_dim), classes)
    origin = f"seed {seed}, indices 0 to {samples - 1}, classes in turn"
    return _Generated(images, classes, trained.weights_sha256, origin)


def _from_npz(path: Path) -> _Generated:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return _Generated(arrays["image"], arrays["class_id"], None, path.name)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise DatasetError(f"{path}: no .npz with image and class_id ({error})") from error


def _check_like(real: LabelledImages, generated: _Generated) -> None:
    images, classes, origin = generated.images, generated.class_id, generated.origin
    if images.dtype != np.uint8 or images.shape[1:] != real.images.shape[1:] or len(images) < 2:  # noqa: PLR2004 - a covariance needs two
        raise DatasetError(
            f"{origin}: images are {images.dtype} {list(images.shape)}, should be uint8"
            f" {['N', *real.images.shape[1:]]} with N at least 2"
        )
    if classes.shape != (len(images),) or not np.isin(classes, range(len(real.class_labels))).all():
        raise DatasetError(
            f"{origin}: class_id must hold {len(images)} classes, each 0 to"
            f" {len(real.class_labels) - 1}"
        )


def _copies(
    generated: NDArray[np.uint8], train: NDArray[np.uint8], test: NDArray[np.uint8]
) -> tuple[float, float]:
    """Returns the share of copies among generated images, and among real test images."""
    known = _flat(train)
    of_generated = nearest_distances(_flat(generated), known)
    of_test = nearest_distances(_flat(test), known)
    limit = _COPY_SHARE * np.median(of_test)
    return float((of_generated < limit).mean()), float((of_test < limit).mean())


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1).astype(np.float64)
