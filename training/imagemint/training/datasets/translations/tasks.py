"""The tasks by name, and how the data of each are loaded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import avatars
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.registry import load_dataset
from imagemint.training.datasets.subsets import select_rows
from imagemint.training.datasets.translations.degradations import (
    Degradation,
    Edges,
    Gray,
    LowResolution,
    MotionBlur,
    Unchanged,
)
from imagemint.training.datasets.translations.halves import HALVES, Halves
from imagemint.training.datasets.translations.holes import GlassesMask, Holes
from imagemint.training.datasets.translations.motion import MovingImages
from imagemint.training.datasets.translations.pairs import DegradedImages, Pairs
from imagemint.training.datasets.translations.unpaired import UnpairedImages
from imagemint.training.errors import DatasetError

_SIDES = 2
_BOXES = 0.4  # share of the holes of avatars that hide the place of the glasses

Loader = Callable[[str, LabelledImages, Split, Path | None], Pairs]


def load_pairs(
    task: str,
    split: Split,
    data: Path | None = None,
    *,
    dataset: str = avatars.NAME,
    size: int | None = None,
    channels: int | None = None,
    per_class: int | None = None,
) -> Pairs:
    """Returns one split of a task.

    Args:
        task: a key of `TASKS`.
        split: ``train`` or ``test``.
        data: folder of the data sets. None: only the cache is searched.
        dataset: data set of the targets. `glasses-mask` needs `avatars64`; `glasses` of other data
            is the task `classes`.
        size: height and width that images, or halves of them, are scaled and cropped to. None: as
            stored.
        channels: 1 for gray images, 3 for RGB. None: as stored.
        per_class: number of images of each class, for experiments with few data. None: all.

    Raises:
        DatasetError: the task is unknown, the data are not suitable, or as in `load_dataset`.
    """
    if task not in TASKS:
        raise DatasetError(f"unknown task {task!r}; known are {', '.join(TASKS)}")
    images = load_dataset(
        *(dataset, split, data),
        size=size,
        channels=channels,
        halves=task in HALVES and size is not None,
        per_class=per_class,
        needs_labels=task in _TASKS_OF_CLASSES,
    )
    return TASKS[task](task, images, split, data)


def _make_loader(degradation: Degradation) -> Loader:
    def load(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
        del split, data
        return DegradedImages(task, images, degradation)

    return load


def _load_moving_images(
    task: str, images: LabelledImages, split: Split, data: Path | None
) -> Pairs:
    del split, data
    return MovingImages(task, images)


def _load_halves(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
    del split, data
    return Halves(task, images)


def _load_holes(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
    """Returns images with holes, of people only those without glasses."""
    del split, data
    wears_glasses = _find_glasses(images)
    if wears_glasses is None:
        return DegradedImages(task, images, Holes())
    return DegradedImages(
        task, select_rows(images, np.flatnonzero(~wears_glasses)), Holes(boxes=_BOXES)
    )


def _load_glasses_mask(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
    rows, truth = _load_bare(task, images, split, data)
    return DegradedImages(task, select_rows(images, rows), GlassesMask(), truth)


def _load_unpaired(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
    """Returns people with glasses and others; of other data, the images of two classes."""
    if _find_glasses(images) is None:
        return _load_classes("classes", images, split, data)
    rows, truth = _load_bare(task, images, split, data)
    without = np.setdiff1d(np.arange(len(images)), rows)
    return UnpairedImages(task, images, rows, without, truth)


def _load_classes(task: str, images: LabelledImages, split: Split, data: Path | None) -> Pairs:
    """Returns the images of the first class as sources and those of the second as targets."""
    del split, data
    if len(images.class_labels) != _SIDES:
        raise DatasetError(
            f"a translation without pairs is from one class to another, and {images.name} has"
            f" {len(images.class_labels)}: use a data set of two classes, such as a folder of two"
            " folders of pictures"
        )
    source, target = (np.flatnonzero(images.labels == side) for side in range(_SIDES))
    for label, rows in zip(images.class_labels, (source, target), strict=True):
        if not rows.size:
            raise DatasetError(
                f"{images.name} has no pictures of class {label!r}. Of a class, every tenth picture"
                " is kept for testing, so it needs at least ten, unless the folder is divided into"
                " train and test"
            )
    return UnpairedImages(task, images, source, target)


def _find_glasses(images: LabelledImages) -> NDArray[np.bool_] | None:
    """Returns which people wear glasses, bool [N]; None for data without this attribute."""
    for attribute in images.attributes:
        if attribute.name == "accessories":
            wears_glasses: NDArray[np.bool_] = attribute.codes != attribute.values.index(
                avatars.NONE
            )
            return wears_glasses
    return None


def _load_bare(
    task: str, images: LabelledImages, split: Split, data: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Returns the rows of people with glasses, and their images without glasses."""
    wears_glasses = _find_glasses(images)
    if wears_glasses is None or images.images.shape[1:] != (64, 64, 3):
        raise DatasetError(f"{task} needs {avatars.NAME} as it is stored, not {images.name}")
    rows, truth = avatars.load_bare(split, data)
    if not np.array_equal(rows, np.flatnonzero(wears_glasses)):
        raise DatasetError(f"{task} needs the whole of {images.name}: its pairs are by row")
    return rows, truth


TASKS: dict[str, Loader] = {
    "edges": _make_loader(Edges()),
    "gray": _make_loader(Gray()),
    "low-resolution": _make_loader(LowResolution()),
    "motion-blur": _make_loader(MotionBlur()),
    "holes": _load_holes,
    "glasses-mask": _load_glasses_mask,
    "glasses": _load_unpaired,
    "classes": _load_classes,
    "frames": _load_moving_images,
    "images": _make_loader(Unchanged()),
    **dict.fromkeys(HALVES, _load_halves),
}
"""Functions that load the tasks, by name."""

_TASKS_OF_CLASSES = ("glasses", "classes")
