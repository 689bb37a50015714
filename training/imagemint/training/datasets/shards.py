"""Finds the shards of data sets by the names of files."""

import re
from pathlib import Path

from imagemint.training.datasets.splits import extract_first_word, find_split_name
from imagemint.training.datasets.tree import is_stray
from imagemint.training.errors import DatasetError

_DEEPEST = 3  # folder/config/split/0000.parquet
_NUMBERED = re.compile(r"-\d+-of-(\d+)(-\w+)?$")


def find_shards(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Returns the files of each split below a folder, in order; {} if there are none.

    A file belongs to the split that its name begins with, or that a folder above it is called,
    otherwise to the training split. A file is its own training split.

    Raises:
        DatasetError: a shard is missing, there are several data sets, or there is no training
            split.
    """
    if folder.is_file():
        return {"train": [folder]}
    files: dict[str, list[Path]] = {}
    for path in sorted(each for each in folder.rglob("*") if each.name.endswith(suffixes)):
        parts = path.relative_to(folder).parts
        if len(parts) > _DEEPEST or any(is_stray(part) for part in parts) or not path.is_file():
            continue
        words = [extract_first_word(path.name), *parts[:-1]]
        found = (split for word in words if (split := find_split_name(word)))
        files.setdefault(next(found, "train"), []).append(path)
    for paths in files.values():
        homes = sorted({str(path.parent.relative_to(folder)) for path in paths})
        if len(homes) > 1:
            raise DatasetError(f"{folder} holds several data sets: name one of {', '.join(homes)}")
        match = _NUMBERED.search(paths[0].name.partition(".")[0])
        if match and int(match[1]) != len(paths):
            raise DatasetError(f"{paths[0]}: only {len(paths)} of {int(match[1])} files exist")
    if files and "train" not in files:
        raise DatasetError(f"{folder}: no {suffixes[0]} file of the training split")
    return files


def name_shards(folder: Path) -> str:
    """Returns the name of the data set in a folder, or in one file."""
    path = folder.resolve()
    return path.name.partition(".")[0] if path.is_file() else path.name
