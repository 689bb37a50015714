"""Measures how well codes, which are learnt without labels, separate classes.

Chen et al., "InfoGAN: Interpretable Representation Learning" (2016) match each value of the
categorical code with a class and find an error of 5 % on MNIST.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

_DEALS = 20


@dataclass(frozen=True)
class CodeAccuracy:
    """The best one-to-one assignment of codes to classes for a sample.

    Attributes:
        share: share of the sample, whose class is the one assigned to its code.
        classes: class of each code; codes beyond the number of classes have none.
    """

    share: float
    classes: dict[int, int]


def code_class_accuracy(codes: NDArray[np.int64], classes: NDArray[np.int64]) -> CodeAccuracy:
    """Returns how well ``codes`` [N] predict ``classes`` [N] by the best assignment."""
    table = np.zeros((codes.max() + 1, classes.max() + 1), np.int64)
    np.add.at(table, (codes, classes), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return CodeAccuracy(
        float(table[rows, columns].sum() / len(codes)),
        dict(zip(rows.tolist(), columns.tolist(), strict=True)),
    )


def chance_code_accuracy(codes: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """Returns the accuracy of random codes.

    It exceeds 1 / K, because the best assignment counts.
    """
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    shares = [code_class_accuracy(rng.permutation(codes), classes).share for _ in range(_DEALS)]
    return float(np.mean(shares))
