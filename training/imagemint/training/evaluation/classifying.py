"""The accuracy of a run's discriminator as a classifier, on the real test set.

Some discriminators are classifiers, too: of K + 1 classes (Salimans et al., "Improved Techniques
for Training GANs", 2016, whose table 1 counts its errors), with an auxiliary classifier (Odena et
al., 2016), or with a head that reads codes (Chen et al., "InfoGAN", 2016, section 7.2: codes
matched with classes, for an error of 5 % on MNIST).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.evaluation.sources import RunSource
from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.metrics import chance_code_accuracy, code_class_accuracy
from imagemint.training.networks import Discriminator

_BATCH = 256
_RECALIBRATION_BATCHES = 40


def measure_discriminator(
    source: RunSource, train: LabelledImages, test: LabelledImages
) -> list[EvaluationFigure]:
    """Returns the accuracy of a run's D as a classifier of real images; [] if it is no classifier.

    Args:
        source: the run.
        train: its training data, for the number of visible labels and for batch normalisation.
        test: images to classify.

    Raises:
        CheckpointError: the discriminator was built for other data.
    """
    D = source.load_discriminator(len(test.class_labels))
    count = len(test)
    sample = f"on all {count:,} images of {test.name}; D of the newest step, not averaged"
    if "classes" in D.heads:
        _recalibrate(D, train)
        visible = int((source.recipe.select_visible_labels(train.labels) >= 0).sum())
        method = f"share that D's own classifier sees right, {visible:,} labels shown in training"
        share = float((_read(D, "classes", test) == test.labels).mean())
        return [EvaluationFigure("classifier_accuracy", share, f"{method}, {sample}", count)]
    if "code" in D.heads:
        _recalibrate(D, train)
        codes = _read(D, "code", test)
        share = code_class_accuracy(codes, test.labels).share
        method = (
            "share whose class is the one assigned to the code that D reads, by the best one-to-one"
            f" assignment; dealt at random {chance_code_accuracy(codes, test.labels):.3f}"
        )
        return [EvaluationFigure("code_classifier_accuracy", share, f"{method}, {sample}", count)]
    return []


@torch.no_grad()
def _recalibrate(D: Discriminator, train: LabelledImages) -> None:
    """Measures the statistics of batch normalisation again, only on real images.

    In training, batches of real and of generated images update them in turn.
    """
    layers = [layer for layer in D.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean over all batches
        layer.train()
    rows = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(train))
    for batch in range(_RECALIBRATION_BATCHES if layers else 0):
        batch_rows = rows[batch * _BATCH : (batch + 1) * _BATCH]
        if len(batch_rows) < min(_BATCH, len(train)):
            break
        phi = D.phi(_to_network(train.images[batch_rows], D), None)
        for head in D.heads.values():
            head(phi)
    for layer in layers:
        layer.eval()


@torch.no_grad()
def _read(D: Discriminator, head: str, data: LabelledImages) -> NDArray[np.int64]:
    """Returns the most likely output of a head for each image: int64 [N]."""
    parts = [
        D.heads[head](D.phi(_to_network(data.images[i : i + _BATCH], D), None)).argmax(dim=1)
        for i in range(0, len(data), _BATCH)
    ]
    likeliest: NDArray[np.int64] = torch.cat(parts).cpu().numpy()
    return likeliest


def _to_network(images: NDArray[np.uint8], D: Discriminator) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(D.parameters()).device)
    return x.float().div(127.5).sub(1)
