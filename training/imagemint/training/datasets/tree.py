"""Finds the pictures below a folder, without files of archivers, notebooks and file managers."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imagemint.training.errors import DatasetError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
# Names besides hidden ones, compared without case.
_STRAY_FOLDERS = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$recycle.bin",
        "system volume information",
    }
)


@dataclass(frozen=True)
class Folder:
    """A folder that holds pictures, directly or further down.

    Attributes:
        path: path of the folder.
        pictures: pictures directly in it, sorted by name.
        folders: its folders that hold pictures, sorted by name.
        others: its other files, which may be lists of labels.
        bare: names of its folders without any picture; stray folders are not among them.
    """

    path: Path
    pictures: tuple[Path, ...]
    folders: tuple["Folder", ...]
    others: tuple[Path, ...]
    bare: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name, without its parents."""
        return self.path.name

    @cached_property
    def all_pictures(self) -> list[Path]:
        """Every picture at any depth, sorted by path."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[Path]:
        yield from self.pictures
        for folder in self.folders:
            yield from folder.all_pictures

    def holds_pictures(self) -> bool:
        """Returns whether there is a picture at any depth."""
        return bool(self.pictures or self.folders)


def is_stray(name: str) -> bool:
    """Returns whether a file or folder of this name is no data, but hidden or left by a tool."""
    return name.startswith(".") or name.casefold() in _STRAY_FOLDERS


def scan(path: Path) -> Folder:
    """Returns a folder with all pictures below it.

    Symbolic links are followed, except to a folder that the link lies in, which would never end.
    A link to a missing picture counts as a picture, so that reading it names it.

    Raises:
        DatasetError: the folder does not exist, or cannot be read.
    """
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder")
    return _scan(path, ())


def _scan(path: Path, above: tuple[tuple[int, int], ...]) -> Folder:
    try:
        own = path.stat()
        here = (*above, (own.st_dev, own.st_ino))
        with os.scandir(path) as entries:
            found = sorted((each for each in entries if not is_stray(each.name)), key=_get_name)
        pictures, folders, others, bare = [], [], [], []
        for entry in found:
            if entry.is_dir():
                status = entry.stat()
                if (status.st_dev, status.st_ino) in here:
                    continue
                folder = _scan(path / entry.name, here)
                folders.append(folder) if folder.holds_pictures() else bare.append(entry.name)
            elif Path(entry.name).suffix.lower() not in SUFFIXES:
                others.append(path / entry.name)
            elif entry.is_file() or _is_dangling(entry):
                pictures.append(path / entry.name)
    except OSError as error:
        raise DatasetError(f"{path}: this folder cannot be read ({error})") from error
    return Folder(path, tuple(pictures), tuple(folders), tuple(others), tuple(bare))


def _get_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_dangling(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a broken link.

    Pipes and sockets do not count: reading them blocks.
    """
    return stat.S_ISLNK(entry.stat(follow_symlinks=False).st_mode) and not Path(entry.path).exists()
