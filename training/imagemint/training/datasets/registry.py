"""Loads data sets by name: the published ones, and those in any folder.

A data set is searched in each folder of a search path (``--data`` or ``IMAGEMINT_DATA``, then the
user's cache), and downloaded to the cache if it is in none of them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from imagemint.training.datasets.avatars import load_avatars64
from imagemint.training.datasets.download import (
    Source,
    compute_digest,
    list_search_folders,
    read_source,
)
from imagemint.training.datasets.folder import load_tree
from imagemint.training.datasets.formats import parse_cifar_binary, parse_idx
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.listing import ReadOptions
from imagemint.training.datasets.parquet import load_parquet_folder, parse_image_parquet
from imagemint.training.datasets.pictures import Shape
from imagemint.training.datasets.stacked import stack_digits
from imagemint.training.datasets.subsets import bring_to_shape, select_per_class
from imagemint.training.datasets.table_files import TABLES
from imagemint.training.datasets.tables import describe_unused_tables, load_tables
from imagemint.training.datasets.tree import scan
from imagemint.training.datasets.webdataset import TARS, load_webdataset
from imagemint.training.errors import DatasetError


def load_dataset(
    name: str,
    split: Split,
    data: Path | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    halves: bool = False,
    per_class: int | None = None,
    subset_seed: int = 0,
    label_column: str | None = None,
    image_column: str | None = None,
    class_labels: tuple[str, ...] | None = None,
    strict: bool = False,
    needs_labels: bool = True,
) -> LabelledImages:
    """Returns one split of a data set.

    Args:
        name: a key of `DATASETS`, or a folder or file: its path, or its name below a folder of the
            search path. `load_path` says what it may hold.
        split: ``train`` or ``test``.
        data: folder that holds ``<name>/``. None: only the cache is searched.
        size: height and width that images are scaled and cropped to. None: as stored.
        channels: 1 for gray, 3 for RGB. None: as stored.
        halves: whether `size` is that of a half of the pictures; see `pictures.Shape`.
        per_class: number of images of each class, for experiments with few data. None: all.
        subset_seed: seed of this selection.
        label_column: column or field that holds labels. None: the usual names.
        image_column: column that holds pictures or their file names. None: the usual names.
        class_labels: names of the classes, by index. None: those of the data set.
        strict: whether a broken picture is an error; otherwise it is left out and named.
        needs_labels: whether data of your own without labels are worth a remark.

    Raises:
        DatasetError: unknown name; not found and not downloadable, naming what was tried; a file
            damaged or with another checksum than the published one; fewer images than requested;
            labels that are none of ``class_labels``.
    """
    shape = Shape(size, channels, halves)
    if name in DATASETS:
        if label_column or image_column:
            raise DatasetError(
                f"{name} has one meaning for labels and images; columns are for data sets of your"
                " own, given by path"
            )
        published = _rename_classes(DATASETS[name](split, data), class_labels)
        found = bring_to_shape(published, shape)
    else:
        options = ReadOptions(
            *(shape, label_column, image_column, class_labels, strict), needs_labels=needs_labels
        )
        found = load_path(_find_path(name, data), split, options)
    return found if per_class is None else select_per_class(found, per_class, seed=subset_seed)


def load_path(path: Path, split: Split, options: ReadOptions) -> LabelledImages:
    """Returns a split of a data set that is a folder or file.

    A folder holds Parquet files (see `load_parquet_folder`), pictures that a table lists (see
    `load_tables`) or that lie in folders of classes (see `load_folder`), or tar shards (see
    `load_webdataset`). A file is a Parquet file, a table or a shard.

    Raises:
        DatasetError: the file has another format; a label column is named, and there is no table;
            or as in these readers.
    """
    if path.is_file():
        return _load_file(path, split, options)
    found = load_parquet_folder(path, split, options)
    if found is not None:
        return found
    tree = scan(path)
    if not tree.holds_pictures():
        found = load_webdataset(path, split, options)
    found = found or load_tables(tree, split, options)
    if found is not None:
        return found
    if options.label_column is not None:
        raise DatasetError(f"{path}: no table has a column {options.label_column!r} of labels")
    return load_tree(tree, split, options, remarks=describe_unused_tables(tree))


def _load_file(path: Path, split: Split, options: ReadOptions) -> LabelledImages:
    found = None
    if path.suffix == ".parquet":
        found = load_parquet_folder(path, split, options)
    elif path.name.endswith(TARS):
        found = load_webdataset(path, split, options)
    elif path.suffix.lower() in TABLES:
        found = load_tables(scan(path.parent), split, options, only=path)
    if found is None:
        kinds = ", ".join(sorted({".parquet", *TARS, *TABLES}))
        raise DatasetError(f"{path}: a data set is a folder, or a file of the kinds {kinds}")
    return found


def _find_path(name: str, data: Path | None) -> Path:
    candidates = [Path(name).expanduser(), *(folder / name for folder in list_search_folders(data))]
    for path in candidates:
        if name and path.exists():
            return path
    places = ", ".join(dict.fromkeys(map(str, candidates)))  # all are equal for an absolute path
    raise DatasetError(
        f"unknown data set {name!r}; known are {', '.join(sorted(DATASETS))}, and folders of"
        f" pictures or Parquet files: name one by --dataset (tried {places})"
    )


def _rename_classes(data: LabelledImages, class_labels: tuple[str, ...] | None) -> LabelledImages:
    """Returns a published data set with other names for its classes."""
    if class_labels is None or class_labels == data.class_labels:
        return data
    if len(class_labels) != len(data.class_labels):
        raise DatasetError(
            f"{data.name} has {len(data.class_labels)} classes, {len(class_labels)} are named"
        )
    return replace(data, class_labels=class_labels)


# --- the published ones -------------------------------------------------------------------------

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte.gz": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
_MNIST_LICENSE = "CC-BY-SA-3.0 (MNIST: Y. LeCun, C. Cortes, C. Burges)"
_CIFAR_LICENSE = "none stated (CIFAR-10: A. Krizhevsky, 2009)"
_EMOJI_LICENSE = "Apache-2.0 (Noto Emoji: Google; flags are in the public domain)"
_STACKS = {"train": 128_000, "test": 30_000}  # 301 and 71 MB
# The usual digest is that of the published archive.
_CIFAR = Source(
    "cifar10/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    packed=True,
)


def _load_mnist(split: Split, data: Path | None) -> LabelledImages:
    sources = [
        Source(f"mnist/{name}", _MNIST_SHA256[name], _MNIST_URL + name)
        for name in _MNIST_FILES[split]
    ]
    contents = [read_source(source, data) for source in sources]
    images, labels = (
        parse_idx(content, source.path) for content, source in zip(contents, sources, strict=True)
    )
    return LabelledImages(
        name=f"mnist/{split}",
        images=images[..., np.newaxis],
        labels=labels.astype(np.int64),
        class_labels=tuple(str(digit) for digit in range(10)),
        sha256=compute_digest(contents),
        license=_MNIST_LICENSE,
    )


def _load_stacked_mnist(split: Split, data: Path | None) -> LabelledImages:
    return stack_digits(DATASETS["mnist"](split, data), _STACKS[split])


def _load_cifar10(split: Split, data: Path | None) -> LabelledImages:
    """Reads the Parquet file if there is one, otherwise the publisher's archive."""
    path = f"cifar10/{split}-00000-of-00001.parquet"
    if any((folder / path).is_file() for folder in list_search_folders(data)):
        return _load_parquet("cifar10", split, data, _CIFAR_LICENSE)
    found = parse_cifar_binary(read_source(_CIFAR, data), split, _CIFAR.path)
    return replace(found, license=_CIFAR_LICENSE)


def _load_emoji64(split: Split, data: Path | None) -> LabelledImages:
    return _load_parquet("emoji64", split, data, _EMOJI_LICENSE)


def _load_parquet(
    name: str,
    split: Split,
    data: Path | None,
    license: str,  # noqa: A002 - the word of the field
) -> LabelledImages:
    source = Source(f"{name}/{split}-00000-of-00001.parquet")
    found = parse_image_parquet(read_source(source, data), f"{name}/{split}")
    return replace(found, license=license)


DATASETS: dict[str, Callable[[Split, Path | None], LabelledImages]] = {
    "mnist": _load_mnist,
    "stacked-mnist": _load_stacked_mnist,
    "cifar10": _load_cifar10,
    "emoji64": _load_emoji64,
    "avatars64": load_avatars64,
}
"""The published data sets by name: each loads one split."""

IMAGE_SHAPES: dict[str, tuple[int, int, int]] = {
    "mnist": (28, 28, 1),
    "stacked-mnist": (28, 28, 3),
    "cifar10": (32, 32, 3),
    "emoji64": (64, 64, 3),
    "avatars64": (64, 64, 3),
}
"""Height, width and channels of the images of each published data set."""
