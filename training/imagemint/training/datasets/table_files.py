"""Reads tables that name picture files: CSV, TSV and JSON Lines."""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from imagemint.training.datasets import columns
from imagemint.training.datasets.pictures import Encoded
from imagemint.training.datasets.tree import SUFFIXES, Folder
from imagemint.training.errors import DatasetError

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
_DELIMITERS = ",;\t|"
_PROBED = 50  # rows to try before deciding that a column names no pictures


@dataclass(frozen=True)
class Table:
    """A table that names pictures.

    Attributes:
        path: path of the table.
        rows: cells by column.
        columns: in the order of the file.
        files: the column that names pictures.
        labels: the column that holds labels; None if there is none.
        texts: the column that describes pictures; None if there is none.
    """

    path: Path
    rows: list[dict[str, Any]]
    columns: list[str]
    files: str
    labels: str | None
    texts: str | None


class PictureIndex:
    """Finds the pictures below a folder by their names in tables.

    Args:
        tree: the folder.
    """

    def __init__(self, tree: Folder) -> None:
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in tree.all_pictures:
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)

    def find(self, name: object, beside: Path) -> Encoded:
        """Returns the picture of this name, or the reason why there is none.

        Args:
            name: path relative to the table's folder, or a file name that is found at any depth,
                with or without its suffix.
            beside: the table's folder.
        """
        written = PurePosixPath(str(name or "").strip().replace("\\", "/"))
        if not written.name:
            return DatasetError("no file name")
        if written.suffix.lower() in SUFFIXES and (beside / written).is_file():
            return beside / written
        ending = written.parts[-len(written.parts) :]
        found = [path for path in self._by_name[written.name] if _has_ending(path, ending)]
        if len(found) > 1:
            below = [path for path in found if path.is_relative_to(beside)]
            found = below if len(below) == 1 else found
        if len(found) == 1:
            return found[0]
        return DatasetError(f"{len(found)} files have this name" if found else "no such file")


def _has_ending(path: Path, ending: Sequence[str]) -> bool:
    """Returns whether a path ends in these parts, the last one with or without its suffix."""
    folders = ending[:-1]
    return not folders or path.parts[-len(ending) : -1] == tuple(folders)


def open_table(
    path: Path, index: PictureIndex, *, image_column: str | None, label_column: str | None
) -> Table | None:
    """Returns a table with its columns identified; None if no column names pictures.

    Args:
        path: CSV with any usual delimiter, with or without a header; TSV; or JSON Lines.
        index: the pictures that it may name.
        image_column: the column that names pictures. None: the first one that does.
        label_column: the column that holds labels. None: one of the usual names.

    Raises:
        DatasetError: the file is not such a table.
    """
    try:
        text = path.read_text("utf-8-sig")
        rows, names = _parse_json_lines(text) if "json" in path.suffix.lower() else _parse_csv(text)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        raise DatasetError(f"{path}: this table cannot be read ({error})") from error
    if names and any(_is_picture(name, index, path.parent) for name in names):
        names, rows = _name_columns(names, rows, index, path.parent)
    files = _find_file_column(rows, names, index, path.parent, image_column)
    if files is None:
        return None
    others = [name for name in names if name != files]
    labels = label_column if label_column in others else None
    if label_column is None:
        labels = columns.find_column(others, columns.LABELS)
    return Table(path, rows, names, files, labels, columns.find_column(others, columns.TEXTS))


def _parse_csv(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    lines = text.splitlines()
    if not lines:
        return [], []
    delimiter = max(_DELIMITERS, key=lines[0].count)
    header, *rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names = [name.strip() for name in header]
    return [dict(zip(names, row, strict=False)) for row in rows if row], names


def _parse_json_lines(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("each line must be a JSON object")
    return rows, list(dict.fromkeys(name for row in rows for name in row))


def _is_picture(name: str, index: PictureIndex, beside: Path) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in SUFFIXES and isinstance(index.find(name, beside), Path)


def _name_columns(
    first: list[str], rows: list[dict[str, Any]], index: PictureIndex, beside: Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns names for the columns of a table whose first line is a row already, and all rows."""
    files = next(n for n, name in enumerate(first) if _is_picture(name, index, beside))
    others = len(first) - 1
    names = [f"column {n + 1}" if others > 1 else "label" for n in range(len(first))]
    names[files] = "file_name"
    cells = [first, *(list(row.values()) for row in rows)]
    return names, [dict(zip(names, row, strict=False)) for row in cells]


def _find_file_column(
    rows: list[dict[str, Any]],
    names: list[str],
    index: PictureIndex,
    beside: Path,
    requested: str | None,
) -> str | None:
    """Returns the column that names pictures, the usual names first; None if none does."""
    if requested is not None:
        return requested if requested in names else None
    usual = [*columns.FILES, *columns.PICTURES]
    called = [name for name in names if name.casefold() in usual or name.endswith("file_name")]
    called.sort(key=lambda name: usual.index(name.casefold()) if name.casefold() in usual else 0)
    for name in [*called, *(name for name in names if name not in called)]:
        cells = [str(row.get(name) or "") for row in rows[:_PROBED]]
        # Bare numbers in any column could be the names of pictures 0.png, 1.png, ...
        cells = cells if name in called else [c for c in cells if PurePosixPath(c).suffix]
        if any(isinstance(index.find(cell, beside), Path) for cell in cells):
            return name
    return None
