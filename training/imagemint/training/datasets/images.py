"""Labelled images in memory, the common type of all readers."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imagemint.training.errors import DatasetError

Split = Literal["train", "test"]
UNLABELLED = ("all",)
"""The class of all images of a data set without classes."""


@dataclass(frozen=True)
class Attribute:
    """A property of every image besides its class.

    Attributes:
        name: name such as ``hair``.
        values: V texts.
        codes: int64 [N], each in 0 to V - 1.
        visible: bool [N], whether the picture shows it; None if it always does.
    """

    name: str
    values: tuple[str, ...]
    codes: NDArray[np.int64]
    visible: NDArray[np.bool_] | None = None

    def select_rows(self, rows: NDArray[np.int64]) -> "Attribute":
        """Returns the attribute of these rows."""
        visible = None if self.visible is None else self.visible[rows]
        return replace(self, codes=self.codes[rows], visible=visible)


@dataclass(frozen=True)
class LabelledImages:
    """A split in memory.

    Attributes:
        name: data set and split, such as ``mnist/train``.
        images: uint8 [N, H, W, C].
        labels: int64 [N], each in 0 to K - 1.
        class_labels: K label texts, by class index.
        sha256: digest of the content of the files and of the conversions, lower-case hexadecimal.
            Images with equal digests are equal.
        texts: N texts that describe the images, or no texts.
        attributes: further known properties of the images.
        broken: pictures that could not be read and were left out, each as "place: reason".
        remarks: sentences for the user about how the data were read.
        license: licence of the images, which trained weights inherit: SPDX, or free text.

    Raises:
        DatasetError: shape or type is wrong, there are no images, the number of labels or texts is
            wrong, or a label is out of range.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_labels: tuple[str, ...]
    sha256: str
    texts: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    license: str = "not stated"
    attributes: tuple[Attribute, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:  # noqa: PLR2004 - NHWC
            raise DatasetError(
                f"{self.name}: images are {images.dtype} {list(images.shape)},"
                " should be uint8 [N, H, W, C] with N at least 1"
            )
        if labels.shape != (len(images),):
            raise DatasetError(
                f"{self.name}: {len(images)} images with labels of shape {list(labels.shape)}"
            )
        if len(self.texts) not in (0, len(images)):
            raise DatasetError(f"{self.name}: {len(images)} images with {len(self.texts)} texts")
        for attribute in self.attributes:
            if attribute.codes.shape != labels.shape:
                raise DatasetError(
                    f"{self.name}: {len(images)} images with {len(attribute.codes)} codes of"
                    f" attribute {attribute.name}"
                )
        invalid = np.flatnonzero((labels < 0) | (labels >= len(self.class_labels)))
        if invalid.size:
            raise DatasetError(
                f"{self.name}, row {invalid[0]}: label {labels[invalid[0]]} is not in"
                f" 0 to {len(self.class_labels) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)
