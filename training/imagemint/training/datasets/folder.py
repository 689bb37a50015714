"""Pictures in folders, a folder for each class."""

import hashlib
import logging
from pathlib import Path

import numpy as np

from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.pictures import AS_STORED, Shape, decode_all, stack
from imagemint.training.errors import DatasetError

_log = logging.getLogger(__name__)

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_HELD_OUT = 10  # every tenth picture of a class, where nobody divided them
_NAMED = 3


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
    their names, whatever ``workers``. A broken picture is left out, named and counted.

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
    strangers = sorted(set(_classes(root)) - set(names))
    if strangers:
        raise DatasetError(f"{root}: classes {', '.join(strangers)} are not in {folder / 'train'}")
    found = [
        (path, label)
        for label, name in enumerate(names)
        for number, path in enumerate(_pictures(root / name))
        if divided or (number % _HELD_OUT == _HELD_OUT - 1) == (split == "test")
    ]
    if not found:
        raise DatasetError(f"{root}: no picture in a folder of its class ({_suffixes()})")
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
    _complain(folder, broken, len(found), strict=strict)
    return LabelledImages(
        name=f"{folder.name}/{split}",
        images=stack(pictures, lambda index: str(paths[index])),
        labels=np.array(labels, np.int64),
        class_labels=names,
        sha256=digest.hexdigest(),
        broken=tuple(broken),
    )


def _complain(folder: Path, broken: list[str], count: int, *, strict: bool) -> None:
    if not broken:
        return
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    said = f"{len(broken)} of {count} pictures are broken: {'; '.join(broken[:_NAMED])}{more}"
    if strict or len(broken) == count:
        raise DatasetError(f"{folder}: {said}")
    _log.warning("%s: %s; they are left out", folder, said)


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
