"""Scores of generated images by a classifier."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

LogProbabilities = NDArray[np.float64]


def inception_score(log_probabilities: LogProbabilities, *, splits: int = 10) -> float:
    """Returns exp of the mean KL divergence of p(y|x) from p(y): 1 to K, more is better.

    It is the mean over parts of the sample. It uses no real data, and detects neither copies nor
    missing modes within a class. Salimans et al., "Improved Techniques for Training GANs" (2016).

    Args:
        log_probabilities: log p(y|x) [N, K], or logits.
        splits: number of parts, at most N.
    """
    with warnings.catch_warnings():
        # torchmetrics warns about its memory, and about old names, when it is imported.
        warnings.simplefilter("ignore")
        from torchmetrics.image.inception import InceptionScore  # noqa: PLC0415 - five seconds

        score = InceptionScore(feature=torch.nn.Identity(), splits=splits).set_dtype(torch.float64)
    with torch.random.fork_rng():  # the part of each image
        torch.manual_seed(0)
        score.update(torch.from_numpy(log_probabilities))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deviation of a single part is undefined
            mean, _ = score.compute()
    return float(mean)


def mode_score(
    log_probabilities: LogProbabilities, real_shares: NDArray[np.float64], *, splits: int = 10
) -> float:
    """Returns the Inception Score divided by exp KL(p(y) | p*(y)), p* the shares of real classes.

    A missing class therefore lowers the score, unless real data lack it, too. Che et al., "Mode
    Regularized Generative Adversarial Networks" (2017), in the form of Xu et al., "An empirical
    study on evaluation metrics of GANs" (2018): with p* inside both terms, as others print it, the
    formula collapses to the Inception Score.

    Args:
        log_probabilities: log p(y|x) [N, K].
        real_shares: p*(y) [K], which sum to 1.
        splits: as for `inception_score`.
    """
    shares = np.exp(log_probabilities).mean(axis=0)
    penalty = kl_divergence(shares / shares.sum(), real_shares)
    return inception_score(log_probabilities, splits=splits) * float(np.exp(-penalty))


def kl_divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Returns sum p log(p / q) in nats; 0 where p is 0, infinite where q is 0 and p is not."""
    support = p > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(p[support] * (np.log(p[support]) - np.log(q[support]))))


@dataclass(frozen=True)
class ClassAccuracy:
    """How often a classifier recognises the requested class.

    Attributes:
        mean: share over all images.
        worst: share over the images of the worst class.
        worst_class: the worst class.
    """

    mean: float
    worst: float
    worst_class: int


def class_accuracy(requested: NDArray[np.int64], predicted: NDArray[np.int64]) -> ClassAccuracy:
    """Returns how often ``predicted`` [N] equals ``requested`` [N]."""
    right = requested == predicted
    by_class = {int(y): float(right[requested == y].mean()) for y in np.unique(requested)}
    worst = min(by_class, key=lambda y: by_class[y])
    return ClassAccuracy(float(right.mean()), by_class[worst], worst)
