"""Lists of pictures with their labels, and the function that decodes them."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.classes import MISSING
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.pictures import (
    AS_STORED,
    Encoded,
    Shape,
    Stack,
    decode_all,
    report_broken,
)
from imagemint.training.datasets.splits import select_held_out
from imagemint.training.errors import DatasetError

if TYPE_CHECKING:
    from hashlib import _Hash

_log = logging.getLogger(__name__)
_NO_LABEL = DatasetError("no label")


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a data set that is not a published one.

    Attributes:
        shape: the shape to convert pictures to. Stored pictures must otherwise have one size.
        label_column: column, field or member of labels. None: the usual names.
        image_column: column, field or member of pictures or their file names.
        class_labels: names of the classes by index. None: those of the data set.
        strict: whether a broken picture is an error. Otherwise it is left out, named and counted.
        workers: threads that decode. The result does not depend on their number.
        needs_labels: whether pictures without labels are worth a remark.
    """

    shape: Shape = AS_STORED
    label_column: str | None = None
    image_column: str | None = None
    class_labels: tuple[str, ...] | None = None
    strict: bool = False
    workers: int = 4
    needs_labels: bool = True


AS_IS = ReadOptions()


@dataclass(frozen=True)
class Listing:
    """A list of pictures that are not decoded yet.

    Attributes:
        place: the place for errors.
        sources: N pictures in order. Consumed once, so a file of any size can be streamed.
        get_place: returns the place of the picture of a row.
        labels: int64 [N], `classes.MISSING` where there is none.
        class_labels: names of the classes.
        texts: N texts, or no texts.
        digest: SHA-256 of what was read so far. Pictures that are files are added to it.
        remarks: sentences for the user about how the data were read.
    """

    place: str
    sources: Iterable[Encoded]
    get_place: Callable[[int], str]
    labels: NDArray[np.int64]
    class_labels: tuple[str, ...]
    texts: tuple[str, ...] = ()
    digest: "_Hash" = field(default_factory=hashlib.sha256)
    remarks: tuple[str, ...] = ()


def read_listing(
    listing: Listing, name: str, options: ReadOptions, *, split_to_select: Split | None = None
) -> LabelledImages:
    """Returns the listed pictures as arrays.

    Args:
        listing: the pictures to read.
        name: data set and split.
        options: shape, strictness and threads.
        split_to_select: the split to select from pictures without splits. None: all pictures.

    Raises:
        DatasetError: there are no pictures, they have several sizes, one is broken with ``strict``,
            or all are broken.
    """
    count = len(listing.labels)
    rows = (
        np.arange(count)
        if split_to_select is None
        else select_held_out(listing.labels, split_to_select)
    )
    if not rows.size:
        raise DatasetError(_explain_too_few(listing.place, count, split_to_select))
    is_selected = np.zeros(count, bool)
    is_selected[rows] = True
    wanted_sources = (
        _NO_LABEL if listing.labels[row] == MISSING else source
        for row, source in enumerate(listing.sources)
        if is_selected[row]
    )
    stack, readable, broken = Stack(len(rows)), [], []
    for row, found in zip(
        rows.tolist(),
        decode_all(wanted_sources, options.shape, workers=options.workers),
        strict=True,
    ):
        if isinstance(found, DatasetError):
            broken.append(f"{listing.get_place(row)}: {found}")
            continue
        place = f"{listing.place}, {listing.get_place(row)}"
        stack.add(found.picture, place, found.stored_size)
        readable.append(row)
        if found.file is not None:
            label = listing.class_labels[listing.labels[row]]
            line = f"{label}/{found.file.name} {found.sha256}\n"
            listing.digest.update(line.encode(errors="surrogateescape"))
    report_broken(listing.place, broken, len(rows), strict=options.strict)
    remarks = (*listing.remarks, *stack.list_remarks())
    for remark in remarks:
        _log.warning("%s: %s", listing.place, remark)
    return LabelledImages(
        name=name,
        images=stack.get_images(),
        labels=listing.labels[readable],
        class_labels=listing.class_labels,
        sha256=listing.digest.hexdigest(),
        texts=tuple(listing.texts[row] for row in readable) if listing.texts else (),
        broken=tuple(broken),
        remarks=remarks,
    )


def _explain_too_few(place: str, count: int, split: Split | None) -> str:
    if not count:
        return f"{place}: no picture"
    return (
        f"{place}: no picture is left for the {split} split: every tenth picture of a class"
        " is for testing, and no class has ten"
    )


def add_digest(data: LabelledImages, *parts: str) -> LabelledImages:
    """Returns the data with a digest that also covers ``parts``; the same data for none."""
    if not parts:
        return data
    digest = hashlib.sha256(" ".join([data.sha256, *parts]).encode()).hexdigest()
    return replace(data, sha256=digest)
