"""What lies in a model repository, without opening any of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, times of change and inode of each file of a version: differs when they do."""


@dataclass(frozen=True)
class Found:
    """What a look at the repository found."""

    versions: dict[str, dict[int, Path]]
    """Directories by model and number, oldest first; no model without a version."""
    unreadable: dict[str, str]
    """Folders that could not be listed, and why; what they hold is not known."""


def scan(directory: Path) -> Found:
    """Returns the versions under a repository.

    A directory ``<model>/<number>/`` is a version; anything else is left alone, so that an export
    may prepare a version beside the others.

    Raises:
        OSError: the repository itself cannot be listed.
    """
    found = Found({}, {})
    for path in sorted(p for p in directory.iterdir() if p.name[0] != "." and p.is_dir()):
        try:
            numbers = sorted(int(p.name) for p in path.iterdir() if _is_version(p))
        except FileNotFoundError:
            continue  # it went away as we looked
        except OSError as error:  # lost+found, for one, lies in every volume of its own
            found.unreadable[path.name] = error.strerror or type(error).__name__
            continue
        if numbers:
            found.versions[path.name] = {number: path / str(number) for number in numbers}
    return found


def signature_of(directory: Path) -> Signature:
    """Returns what tells whether the files of a version have changed; reads none of them.

    The time of the inode is part of it, for copies that keep the time of the content.
    """
    try:
        return tuple(sorted(map(_look_of, directory.iterdir())))
    except OSError:  # it goes away as we look: the next look tells
        return ()


def _look_of(path: Path) -> tuple[str, int, int, int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, for one
        return (path.name, -1, 0, 0, 0)
    return (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdecimal() and not name.startswith("0") and path.is_dir()
