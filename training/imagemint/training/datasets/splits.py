"""Knows the usual names of splits, and divides data without splits."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.images import Split

T = TypeVar("T")

HELD_OUT = 10
"""In data without splits, one picture of this number of each class is for testing."""
SPLIT_NAMES: dict[str, str] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}


def find_split_name(name: str) -> str | None:
    """Returns the split that a file or folder of this name holds; None for any other name."""
    return SPLIT_NAMES.get(name.casefold())


def extract_first_word(name: str) -> str:
    """Returns the beginning of a file name, which names the split of a shard: train-00000.tar."""
    return re.split(r"[-_.]", name)[0]


def choose_split(parts: Collection[str], split: Split) -> str:
    """Returns the part of a data set to read for a split.

    Validation replaces a missing test split. If there is neither, the result for ``test`` is
    ``train``, of which `select_held_out` then takes a tenth.
    """
    return next((part for part in (split, "validation") if part in parts), "train")


def describe_unused_splits(parts: Mapping[str, T]) -> tuple[str, ...]:
    """Returns remarks about parts that no split uses."""
    if {"test", "validation"} <= parts.keys():
        return ("the validation split is not used: the test split is for testing",)
    return ()


def select_held_out(labels: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """Returns the rows of a split of data without splits: int64, in order.

    Every tenth picture of each class, in the order given, is for testing.
    """
    tenth = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        tenth[np.flatnonzero(labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    return np.flatnonzero(tenth if split == "test" else ~tenth)
