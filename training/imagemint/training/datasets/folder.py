"""Pictures in folders, a folder for each class."""

import hashlib
from pathlib import Path

import numpy as np

from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.pictures import (
    AS_STORED,
    HELD_OUT,
    Shape,
    complain,
    decode_all,
    stack,
)
from imagemint.training.errors import DatasetError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def load_folder(
    folder: Path,
    split: Split,
    *,
    shape: Shape = AS_STORED,
    strict: bool = False,
    workers: int = 4,
) -> LabelledImages:
    """Returns the pictures below a folder, labelled by the folder of their class.

    Where it holds ``train/`` and ``test/`` these are the splits; otherwise every tenth picture of
    each class, in the order of the names, is for testing. Classes and pictures come in the order of
    their names, whatever ``workers``. A broken picture is left out, named and counted. Without any
    folder of a class, the pictures are all of one.

    Args:
        folder: holds ``<class>/<picture>``, or ``<split>/<class>/<picture>``; deeper folders count
            to their class, hidden files do not count.
        split: which part.
        shape: what the pictures are brought to; as stored, they must share one size.
        strict: let a broken picture be an error.
        workers: threads that decode.

    Raises:
        DatasetError: no such folder, no picture in it, a class of the test split that is none of
            the training split, pictures of several sizes, or with ``strict`` a broken one.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    divided = all((folder / part).is_dir() for part in ("train", "test"))
    root = folder / split if divided else folder
    names = _classes(folder / "train" if divided else folder)
    flat = not names
    names = names or UNLABELLED
    strangers = sorted(set(_classes(root)) - set(names))
    if strangers:
        raise DatasetError(f"{root}: classes {', '.join(strangers)} are not in {folder / 'train'}")
    found = [
        (path, label)
        for label, name in enumerate(names)
        for number, path in enumerate(_pictures(root if flat else root / name))
        if divided or (number % HELD_OUT == HELD_OUT - 1) == (split == "test")
    ]
    if not found:
        raise DatasetError(
            f"{root}: no picture, neither there nor in folders of classes ({_suffixes()}), and no"
            " Parquet file"
        )
    digest = hashlib.sha256(f"{shape}\n".encode())
    pictures, paths, labels, broken = [], [], [], []
    decoded = decode_all((path for path, _ in found), shape, workers=workers)
    for (path, label), picture in zip(found, decoded, strict=True):
        if isinstance(picture, DatasetError):
            broken.append(f"{path.relative_to(folder)}: {picture}")
            continue
        pictures.append(picture)
        paths.append(path)
        labels.append(label)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{names[label]}/{path.name} {content}\n".encode())
    complain(folder, broken, len(found), strict=strict)
    return LabelledImages(
        name=f"{folder.name}/{split}",
        images=stack(pictures, lambda index: str(paths[index])),
        labels=np.array(labels, np.int64),
        class_labels=names,
        sha256=digest.hexdigest(),
        broken=tuple(broken),
    )


def _classes(root: Path) -> tuple[str, ...]:
    return tuple(
        sorted(each.name for each in root.iterdir() if each.is_dir() and each.name[0] != ".")
    )


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():  # a class that this split has no picture of
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file() and path.name[0] != "."
    )


def _suffixes() -> str:
    return ", ".join(sorted(_SUFFIXES))
