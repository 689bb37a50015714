"""Selects images of each class, and converts their size and colours."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import compute_digest
from imagemint.training.datasets.images import LabelledImages
from imagemint.training.datasets.pictures import Shape, reshape_images
from imagemint.training.errors import DatasetError


def select_per_class(data: LabelledImages, count: int, *, seed: int = 0) -> LabelledImages:
    """Returns ``count`` images of each class, drawn by ``seed``, in the order of the data.

    The selection of a class depends on nothing else, and that of a smaller count is part of that of
    a larger one.

    Raises:
        DatasetError: a class has fewer images; the message names it.
    """
    if count < 1:
        raise DatasetError(f"{data.name}: per_class is {count}, and must be 1 or more")
    chosen = []
    for label, text in enumerate(data.class_labels):
        rows = np.flatnonzero(data.labels == label)
        if len(rows) < count:
            raise DatasetError(
                f"{data.name}: class {text!r} has {len(rows)} images, but {count} were requested"
            )
        key = np.array([seed, label], np.uint64)
        chosen.append(np.random.Generator(np.random.Philox(key=key)).permutation(rows)[:count])
    rows = np.sort(np.concatenate(chosen))
    digest = compute_digest([f"{data.sha256} {count} of each, seed {seed}".encode()])
    return replace(select_rows(data, rows), sha256=digest)


def select_rows(data: LabelledImages, rows: NDArray[np.int64]) -> LabelledImages:
    """Returns the images of these rows int64 [M], with their labels, texts and attributes."""
    return replace(
        data,
        images=data.images[rows],
        labels=data.labels[rows],
        texts=tuple(data.texts[row] for row in rows) if data.texts else (),
        attributes=tuple(attribute.select_rows(rows) for attribute in data.attributes),
        sha256=compute_digest([data.sha256.encode(), rows.tobytes()]),
    )


def bring_to_shape(data: LabelledImages, shape: Shape) -> LabelledImages:
    """Returns the data with its images scaled, cropped and converted; unchanged if they fit."""
    images = reshape_images(data.images, shape)
    if images is data.images:
        return data
    return replace(data, images=images, sha256=compute_digest([f"{data.sha256} {shape}".encode()]))
