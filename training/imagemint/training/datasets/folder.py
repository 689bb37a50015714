"""Reads pictures in folders, one folder for each class."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imagemint.training.datasets.classes import compose_name, number_classes
from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.listing import AS_IS, Listing, ReadOptions, read_listing
from imagemint.training.datasets.splits import choose_split, describe_unused_splits, find_split_name
from imagemint.training.datasets.tree import SUFFIXES, Folder, scan
from imagemint.training.errors import DatasetError

_SHOWN = 5


def load_folder(folder: Path, split: Split, options: ReadOptions = AS_IS) -> LabelledImages:
    """Returns the pictures below a folder, labelled by the folder of their class.

    Folders named after splits (``train``, ``val``, ``testing`` and the like) divide the data. If
    there is only a training split, or none, every tenth picture of each class is for testing.
    Classes come in natural order of their names, pictures in the order of their paths. A broken
    picture is left out, named and counted. Pictures without any folder of a class are all of one.

    Args:
        folder: holds ``<class>/<picture>`` or ``<split>/<class>/<picture>``, possibly inside one
            more folder. Deeper folders count to their class. `tree.is_stray` says what is ignored.
        split: name of the split.
        options: shape, names of classes and strictness.

    Raises:
        DatasetError: no such folder, no picture in it, a class of the test split that is none of
            the training split, pictures of several sizes, or with ``strict`` a broken one.
    """
    return load_tree(scan(folder), split, options)


def load_tree(
    tree: Folder, split: Split, options: ReadOptions, *, remarks: tuple[str, ...] = ()
) -> LabelledImages:
    """Returns what `load_folder` returns, for a folder that was scanned already.

    Args:
        tree: the folder.
        split: name of the split.
        options: shape, names of classes and strictness.
        remarks: further remarks for the user.
    """
    if not tree.holds_pictures():
        raise DatasetError(
            f"{tree.path}: no picture, neither there nor in folders of classes"
            f" ({', '.join(sorted(SUFFIXES))}), and no Parquet file or tar shard"
        )
    top = unwrap(tree)
    parts = split_folders(top)
    if parts and "train" not in parts:
        raise DatasetError(
            f"{top.path}: no folder of the training split beside {_join_folder_names(top.folders)}"
        )
    train = unwrap(parts["train"]) if parts else top
    names = _list_class_names(train, options)
    part = choose_split(parts, split)
    chosen = train if part == "train" else _unwrap_like(train, parts[part])
    remarks = (
        *_list_remarks(tree, train, parts, options),
        *describe_unused_splits(parts),
        *remarks,
    )
    listing = _list(chosen, names, options, base=tree.path, flat=not train.folders)
    split_to_select = split if parts.keys() <= {"train"} else None
    name = f"{tree.path.resolve().name}/{split}"
    return read_listing(
        replace(listing, remarks=remarks), name, options, split_to_select=split_to_select
    )


def split_folders(folder: Folder) -> dict[str, Folder]:
    """Returns the folders of splits by the name of the split; {} if folders are classes.

    Folders are splits if all are named after splits, if those of training and testing exist, or if
    the one for training contains folders of classes.

    Raises:
        DatasetError: two folders of one split.
    """
    found: dict[str, Folder] = {}
    for each in folder.folders:
        split = find_split_name(each.name)
        if split in found:
            twins = f"both {found[split].name} and {each.name}"
            raise DatasetError(f"{folder.path}: {twins} are the {split} split")
        if split is not None:
            found[split] = each
    is_exhaustive = len(found) == len(folder.folders)
    divided = "train" in found and ("test" in found or found["train"].folders)
    return found if is_exhaustive or divided else {}


def unwrap(folder: Folder) -> Folder:
    """Returns the folder of classes or splits, which may be inside otherwise empty folders."""
    if split_folders(folder) or folder.pictures or len(folder.folders) != 1:
        return folder
    inner = unwrap(folder.folders[0])
    divided = split_folders(inner) or len(inner.folders) > 1
    return inner if divided and not inner.pictures else folder


def _unwrap_like(train: Folder, other: Folder) -> Folder:
    """Returns the folder of the same classes within another split."""
    classes = {compose_name(folder.name) for folder in train.folders}
    has_one = any(compose_name(folder.name) in classes for folder in other.folders)
    return other if has_one else unwrap(other)


def _list_class_names(train: Folder, options: ReadOptions) -> tuple[str, ...]:
    """Returns the names of the classes, in order."""
    folders = [folder.name for folder in train.folders]
    _, names = number_classes(
        folders or UNLABELLED, lambda n: f"{train.path / folders[n]}", known=options.class_labels
    )
    return names


def _list(
    folder: Folder,
    names: tuple[str, ...],
    options: ReadOptions,
    *,
    base: Path,
    flat: bool,
) -> Listing:
    """Returns the pictures in the folders of these classes, those of the first class first."""
    classes = [folder] if flat else list(folder.folders)
    if not classes:
        raise DatasetError(f"{folder.path}: its pictures are not in class folders")
    labels = [0] * len(classes)
    if not flat:
        found, _ = number_classes(
            [folder.name for folder in classes], lambda n: f"{classes[n].path}", known=names
        )
        labels = found.tolist()
    order = sorted(range(len(classes)), key=labels.__getitem__)
    pictures = [path for n in order for path in classes[n].all_pictures]
    counts = [len(classes[n].all_pictures) for n in order]
    return Listing(
        place=str(folder.path),
        sources=pictures,
        get_place=lambda row: str(pictures[row].relative_to(base)),
        labels=np.repeat(np.array([labels[n] for n in order], np.int64), counts),
        class_labels=names,
        digest=hashlib.sha256(f"{options.shape}\n".encode()),
    )


def _list_remarks(
    tree: Folder, train: Folder, parts: dict[str, Folder], options: ReadOptions
) -> list[str]:
    """Returns remarks about pictures that are left out, and about guesses."""
    remarks = []
    if not train.folders and options.needs_labels:
        remarks.append(
            "no labels: all pictures are of one class; put them in a folder for each class, or"
            " list them in metadata.csv with the columns file_name and label"
        )
    if train.folders and train.path != tree.path:
        remarks.append(f"the folders of classes are in {train.path.relative_to(tree.path)}")
    if train.folders and train.pictures:
        names = _join_names([path.name for path in train.pictures])
        remarks.append(f"left out beside the folders of classes: {names}")
    if parts and len(parts) < len(tree.folders):
        others = [folder for folder in tree.folders if find_split_name(folder.name) is None]
        remarks.append(f"not a split, left out: {_join_folder_names(others)}")
    if train.bare:
        remarks.append(f"folders without pictures are no classes: {_join_names(train.bare)}")
    counts = Counter(compose_name(folder.name) for folder in train.folders)
    twins = [name for name, count in counts.items() if count > 1]
    if twins:
        remarks.append(
            f"folders whose names differ only in Unicode are one class: {_join_names(twins)}"
        )
    return remarks


def _join_folder_names(folders: Sequence[Folder]) -> str:
    return _join_names([folder.name for folder in folders])


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
