"""Reads generated images from files: an .npz, or a folder of pictures."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemint.pictures import SERIAL_KEY
from imagemint.training.datasets.classes import Label, number_classes
from imagemint.training.datasets.folder import unwrap
from imagemint.training.datasets.pictures import Stack, decode_all, report_broken
from imagemint.training.datasets.table_files import TABLES, PictureIndex, open_table
from imagemint.training.datasets.tree import Folder, scan
from imagemint.training.errors import DatasetError

UNCONDITIONAL = -1
"""The class in an npz of `imagemint generate`, of a model without classes."""
_NAMED_CLASS = re.compile(r"_class(\d+)$")

_IMAGE_AXES = 3
_CHANNELS = (1, 3)

Images = NDArray[np.uint8]
Classes = NDArray[np.int64]


class FileSource:
    """Images in files. Each draw returns all of them.

    Attributes:
        name: description for people.
        sha256: digest of the images and their classes.
        images: uint8 [N, H, W, C].
        num_classes: number of classes; 0 if they are unknown.
    """

    dataset: str | None = None
    class_labels: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    name: str
    sha256: str
    images: Images
    num_classes: int
    _classes: Classes | None

    def name_classes(self, class_labels: tuple[str, ...]) -> None:
        """Receives the names of the classes of the data set to compare with."""

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Classes | None]:  # noqa: ARG002 - a file has no reel
        """Returns all images and their classes."""
        return self.images, self._classes

    def close(self) -> None:
        """Does nothing, because no file is open."""


class NpzSource(FileSource):
    """Images in an .npz.

    Args:
        path: .npz with ``image`` uint8 [N, H, W, C] and ``class_id`` int64 [N], as `imagemint
            generate` writes it; classes of -1 are those of a model without classes.

    Raises:
        DatasetError: the file does not exist, an array is missing, or classes are no integers.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            content = path.read_bytes()
            with path.open("rb") as file, np.load(file) as arrays:
                self.images, classes = arrays["image"], arrays["class_id"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise DatasetError(
                f"{path}: not an .npz file with the arrays image and class_id ({error})"
            ) from error
        if not np.issubdtype(classes.dtype, np.integer):
            raise DatasetError(f"{path}: class_id is {classes.dtype}, must be integers")
        self.sha256 = hashlib.sha256(content).hexdigest()
        shape = self.images.shape[1:]
        if self.images.dtype == np.uint8 and len(shape) == _IMAGE_AXES and shape[-1] in _CHANNELS:
            self.image_shape = shape
        self._classes = None if (classes == UNCONDITIONAL).all() else classes
        self.num_classes = 0 if self._classes is None else int(self._classes.max()) + 1


class PicturesSource(FileSource):
    """Pictures below a folder, as `imagemint generate` writes them.

    The class of a picture comes from a table in the folder (file name and label), otherwise from
    the serial number inside the picture, its name (``000017_class7.png``), or its folder.

    Args:
        tree: the folder.

    Raises:
        DatasetError: a picture is broken, there are several sizes, or only some pictures have a
            class.
    """

    def __init__(self, tree: Folder) -> None:
        self.name = f"{len(tree.all_pictures)} pictures in {tree.path.resolve().name}"
        paths = tree.all_pictures
        stack, broken, digest = Stack(len(paths)), [], hashlib.sha256()
        for path, found in zip(paths, decode_all(paths), strict=True):
            if isinstance(found, DatasetError):
                broken.append(f"{path.relative_to(tree.path)}: {found}")
                continue
            stack.add(found.picture, str(path), found.stored_size)
            digest.update(f"{path.relative_to(tree.path)} {found.sha256}\n".encode())
        report_broken(tree.path, broken, len(paths), strict=True)
        self.images = stack.get_images()
        _, height, width, channels = self.images.shape
        self.image_shape = (height, width, channels)
        self._place = tree.path
        self._labels = _find_labels(tree, paths)
        digest.update(repr(self._labels).encode())
        self.sha256 = digest.hexdigest()
        self._classes = None
        self.num_classes = len(set(self._labels)) if self._labels else 0

    def name_classes(self, class_labels: tuple[str, ...]) -> None:
        """Converts labels to the classes of the data set.

        Raises:
            DatasetError: a label is none of its classes.
        """
        if not self._labels:
            return
        self._classes, _ = number_classes(
            self._labels, lambda row: f"{self._place}, picture {row}", known=class_labels
        )
        self.num_classes = len(class_labels)


def _find_labels(tree: Folder, paths: Sequence[Path]) -> list[Label]:
    """Returns the label of each picture, as a text or an index; [] if there are none."""
    labels = _read_table_labels(tree) or _read_picture_labels(paths) or _read_folder_labels(tree)
    if not labels:
        return []
    missing = next((path for path in paths if path not in labels), None)
    if missing is not None:
        raise DatasetError(
            f"{missing}: its class is unknown, and those of other pictures are known"
        )
    return [labels[path] for path in paths]


def _read_table_labels(tree: Folder) -> dict[Path, Label]:
    index = PictureIndex(tree)
    labels: dict[Path, Label] = {}
    for path in tree.others:
        table = None
        if path.suffix.lower() in TABLES:
            table = open_table(path, index, image_column=None, label_column=None)
        for row in table.rows if table is not None and table.labels else ():
            source = index.find(row.get(table.files), path.parent) if table else None
            if isinstance(source, Path) and table and row.get(table.labels or "") is not None:
                labels[source] = str(row[table.labels or ""])
    return labels


def _read_picture_labels(paths: Sequence[Path]) -> dict[Path, Label]:
    labels: dict[Path, Label] = {}
    for path in paths:
        with Image.open(path) as picture:
            serial = str(picture.info.get(SERIAL_KEY, ""))
        classes = parse_qs(serial.partition("?")[2]).get("class")
        match = _NAMED_CLASS.search(path.stem)
        if classes:
            labels[path] = int(classes[0])
        elif match:
            labels[path] = int(match[1])
    return labels


def _read_folder_labels(tree: Folder) -> dict[Path, Label]:
    folders = unwrap(tree).folders
    return {path: folder.name for folder in folders for path in folder.all_pictures}


def is_folder_of_pictures(path: Path) -> bool:
    """Returns whether a folder holds pictures and is neither a run nor a checkpoint."""
    of_runs = ("checkpoints", "options.json", "checkpoint.json", "log.jsonl")
    if not path.is_dir() or any((path / name).exists() for name in of_runs):
        return False
    return scan(path).holds_pictures()
