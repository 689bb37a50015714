"""Summarises a data set and finds possible problems."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.splits import HELD_OUT, find_split_name

_SAMPLED = 2_000  # pictures that are compared with each other
_ALIKE = 2.0  # levels: pictures whose pixels deviate less from their mean are nearly the same
_DARK = 16  # levels: pictures without anything brighter are nearly black
_RARE = 50  # a class with fewer pictures than the largest by this factor is hardly learnt
_SHOWN = 5


def summarise(train: LabelledImages, test: LabelledImages | None) -> dict[str, Any]:
    """Returns splits, classes with their counts and the shape of the pictures, as JSON values."""
    height, width, channels = train.images.shape[1:]
    splits = {"train": train} | ({"test": test} if test is not None else {})
    counts = {
        split: np.bincount(data.labels, minlength=len(train.class_labels)).tolist()
        for split, data in splits.items()
    }
    return {
        "splits": {split: len(data) for split, data in splits.items()},
        "classes": {
            text: {split: counts[split][label] for split in splits}
            for label, text in enumerate(train.class_labels)
        },
        "image": f"{width}x{height} {'gray' if channels == 1 else 'RGB'}",
        "shape": [height, width, channels],
        "broken": sum(len(data.broken) for data in splits.values()),
        "license": train.license,
    }


def find_doubts(data: LabelledImages) -> list[str]:
    """Returns sentences about possible problems of training pictures."""
    return [*_find_doubtful_classes(data), *_find_doubtful_pictures(data)]


def _find_doubtful_classes(data: LabelledImages) -> list[str]:
    names = data.class_labels
    counts = np.bincount(data.labels, minlength=len(names))
    warnings = []
    if len(names) == 1:
        warnings.append(f"all {len(data)} pictures are of one class, {names[0]!r}")
    splits = [name for name in names if find_split_name(name)]
    if splits:
        warnings.append(f"classes are called like splits: {_join_names(splits)}")
    folded = Counter(name.casefold() for name in names)
    twins = [name for name in names if folded[name.casefold()] > 1]
    if twins:
        warnings.append(f"names of classes differ only in case: {_join_names(twins)}")
    least = max(HELD_OUT, int(counts.max()) // _RARE)
    tiny = [f"{names[label]} ({counts[label]})" for label in np.flatnonzero(counts < least)]
    if tiny and len(names) > 1:
        warnings.append(f"classes with fewer than {least} training pictures: {_join_names(tiny)}")
    return warnings


def _find_doubtful_pictures(data: LabelledImages) -> list[str]:
    rows = np.linspace(0, len(data) - 1, min(len(data), _SAMPLED)).astype(np.int64)
    sample = data.images[rows]
    distinct = len({image.tobytes() for image in sample})
    warnings = []
    if len(sample) > 1 and sample.astype(np.float32).std(axis=0).mean() < _ALIKE:
        warnings.append("nearly all pictures are alike")
    elif distinct <= len(sample) // 2:
        warnings.append(f"of {len(sample)} pictures only {distinct} differ")
    dark = float((sample.max(axis=(1, 2, 3)) < _DARK).mean())
    if dark > 1 / 2:
        warnings.append(f"{dark:.0%} of the pictures are nearly black")
    return warnings


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
