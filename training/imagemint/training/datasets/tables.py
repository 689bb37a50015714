"""Reads pictures that a table lists by file name, with their labels.

Such tables are in the image folders of Hugging Face (``metadata.csv`` or ``metadata.jsonl`` beside
the pictures) and in most competitions (``train.csv`` with an ``id`` and a ``label``).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import columns
from imagemint.training.datasets.classes import Label, number_classes
from imagemint.training.datasets.folder import split_folders, unwrap
from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.listing import Listing, ReadOptions, read_listing
from imagemint.training.datasets.pictures import Encoded
from imagemint.training.datasets.splits import (
    choose_split,
    describe_unused_splits,
    extract_first_word,
    find_split_name,
)
from imagemint.training.datasets.table_files import TABLES, PictureIndex, Table, open_table
from imagemint.training.datasets.tree import Folder
from imagemint.training.errors import DatasetError


@dataclass(frozen=True)
class _Row:
    """One listed picture: its name as written, its source, label, text and split."""

    file: str
    source: Encoded
    label: Label | None
    text: str
    split: str


def load_tables(
    tree: Folder, split: Split, options: ReadOptions, *, only: Path | None = None
) -> LabelledImages | None:
    """Returns the pictures that the tables in a folder list; None if no table does.

    A table belongs to the split that its name begins with or its folder is called. Otherwise a
    column ``split`` divides its rows, or the folders in the file names do. If nothing does, every
    tenth picture of each class is for testing. Where folders of classes tell the labels, a table
    counts only if it is called ``metadata``, or if ``options.label_column`` names its column.

    Args:
        tree: the folder.
        split: name of the split.
        options: columns, shape, names of classes and strictness.
        only: the only table to read.

    Raises:
        DatasetError: the requested column is missing, a label is none of the classes,
            there is no picture of the split, or as `read_listing`.
    """
    paths = [path for path in _find_tables(tree) if only in (None, path)]
    if not paths:
        return None
    index = PictureIndex(tree)
    requested = {"image_column": options.image_column, "label_column": options.label_column}
    opened = [open_table(path, index, **requested) for path in paths]
    found = [table for table in opened if table is not None]
    if only is not None and not found:
        raise DatasetError(f"{only}: no column names pictures below {tree.path}")
    if _has_classes(tree) and only is None and options.label_column is None:
        found = [it for it in found if it.path.stem.casefold() == "metadata" and it.labels]
    return _load(found, tree, index, split, options) if found else None


def describe_unused_tables(tree: Folder) -> tuple[str, ...]:
    """Returns a remark about the tables in a folder that were not used for labels."""
    names = [path.name for path in _find_tables(tree)]
    if not names:
        return ()
    return (f"labels are not from {', '.join(names)}; --label-column names a column to take",)


def _find_tables(tree: Folder) -> Iterator[Path]:
    """Yields the tables around classes and splits, and in the folders of splits."""
    top = unwrap(tree)
    inner = [folder for folder in top.folders if find_split_name(folder.name)]
    for folder in [tree, *([] if top is tree else [top]), *inner]:
        for path in folder.others:
            # Competitions add a sample submission, whose labels are invented.
            if path.suffix.lower() in TABLES and "submission" not in path.stem.casefold():
                yield path


def _has_classes(tree: Folder) -> bool:
    top = unwrap(tree)
    return len(split_folders(top).get("train", top).folders) > 1


def _load(
    tables: Sequence[Table], tree: Folder, index: PictureIndex, split: Split, options: ReadOptions
) -> LabelledImages:
    used = [table for table in tables if table.labels] or list(tables)
    if options.label_column is not None and not used[0].labels:
        column_names = [name for table in tables for name in table.columns]
        columns.find_column(column_names, (), requested=options.label_column, flag="--label-column")
    parts: dict[str, list[_Row]] = defaultdict(list)
    for table in used:
        for row in _read_rows(table, tree, index):
            parts[row.split].append(row)
    if "train" not in parts:
        raise DatasetError(f"{tree.path}: the tables list no picture of the training split")
    rows = parts[choose_split(parts, split)]
    labels, names = _number_classes(rows, parts["train"], used[0], options)
    listing = Listing(
        place=str(tree.path),
        sources=[row.source for row in rows],
        get_place=lambda n: rows[n].file,
        labels=labels,
        class_labels=names,
        texts=tuple(row.text for row in rows) if any(row.text for row in rows) else (),
        digest=hashlib.sha256(f"{options.shape}\n".encode()),
        remarks=(*_list_remarks(tables, used, options), *describe_unused_splits(parts)),
    )
    split_to_select = split if parts.keys() == {"train"} else None
    name = f"{tree.path.resolve().name}/{split}"
    return read_listing(listing, name, options, split_to_select=split_to_select)


def _number_classes(
    rows: Sequence[_Row], training: Sequence[_Row], table: Table, options: ReadOptions
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Returns the labels int64 [N] of the rows and the names of the classes."""
    if not table.labels:
        return np.zeros(len(rows), np.int64), UNLABELLED

    def number_rows(
        subset: Sequence[_Row], known: tuple[str, ...] | None
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        labels = [row.label for row in subset]
        return number_classes(labels, lambda n: f"{table.path}, {subset[n].file}", known=known)

    return number_rows(rows, options.class_labels or number_rows(training, None)[1])


def _read_rows(table: Table, tree: Folder, index: PictureIndex) -> Iterator[_Row]:
    folder = table.path.parent
    of_table = find_split_name(extract_first_word(table.path.stem))
    if of_table is None and folder != tree.path:
        of_table = find_split_name(folder.name)
    place = f"{table.path}: column {table.labels}"
    for cells in table.rows:
        file = str(cells.get(table.files) or "")
        source = index.find(file, folder)
        yield _Row(
            file=file,
            source=source,
            label=columns.as_label(cells.get(table.labels), place) if table.labels else None,
            text=str(cells.get(table.texts) or "") if table.texts else "",
            split=of_table or _read_split(cells, file, source, tree) or "train",
        )


def _read_split(cells: dict[str, Any], file: str, source: Encoded, tree: Folder) -> str | None:
    """Returns the split of one row, by its column ``split`` or the folders of its picture."""
    column_split = find_split_name(str(cells.get("split") or ""))
    if column_split is not None:
        return column_split
    parents = PurePosixPath(file.replace("\\", "/")).parts[:-1]
    if isinstance(source, Path) and source.is_relative_to(tree.path):
        parents = source.relative_to(tree.path).parts[:-1]
    return next((split for part in parents if (split := find_split_name(part))), None)


def _list_remarks(
    tables: Sequence[Table], used: Sequence[Table], options: ReadOptions
) -> list[str]:
    if not used[0].labels:
        others = [it for it in used[0].columns if it != used[0].files]
        return [columns.describe_missing_labels(others)] if options.needs_labels else []
    remarks = [f"labels are from {', '.join(f'{it.path.name}, column {it.labels}' for it in used)}"]
    unlabelled = [table.path.name for table in tables if table not in used]
    if unlabelled:
        remarks.append(f"without a column of labels, left out: {', '.join(unlabelled)}")
    return remarks
