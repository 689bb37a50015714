"""What lies in a model repository, without opening any of it."""

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, times of change and inode of each file of a version: differs when they do."""

_VERSION = re.compile(r"[1-9][0-9]*")
# What people write for a version, and what is none: 01, v1, 1.0, full-width digits.
_LIKE_A_VERSION = re.compile(r"[vV]?[-+]?\d+(\.\d+)*")
_MODEL_FILE = "model.onnx"
_LOST_FOUND = "lost+found"  # lies in every volume of its own, and only root may read it


@dataclass
class Found:
    """What a look at the repository found."""

    versions: dict[str, dict[int, Path]] = field(default_factory=dict)
    """Directories by model and number, oldest first; no model without a version."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Entries that could not be read, or that hold no version though they seem to, and why."""
    empty: set[str] = field(default_factory=set)
    """Folders of models that hold no version at all."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Other paths that are not served though somebody may expect it, escaped, and why."""


def scan(directory: Path) -> Found:
    """Returns the versions under a repository.

    A directory ``<model>/<number>/`` is a version; an entry that cannot be read is told apart from
    one that is not there. Hidden folders are left alone, so that an export may prepare a version
    beside the others.

    Raises:
        OSError: the repository itself cannot be listed.
    """
    found = Found()
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name == _LOST_FOUND:
            continue
        if not _is_text(path.name):
            found.ignored[escaped(path.name)] = "its name is not UTF-8"
            continue
        try:
            if _is_folder(path):
                _scan_model(path, found)
            elif path.name == _MODEL_FILE:
                found.ignored[path.name] = "a model lies in a folder <model>/<version>/"
        except FileNotFoundError:
            continue  # it went away during the look
        except OSError as error:
            found.unreadable[path.name] = error.strerror or type(error).__name__
    return found


def _scan_model(path: Path, found: Found) -> None:
    numbers: dict[int, Path] = {}
    strays: list[str] = []
    for entry in path.iterdir():
        if _VERSION.fullmatch(entry.name):
            # What cannot be read is a version all the same: loading it says why it fails.
            if entry.is_symlink() or stat.S_ISDIR(entry.lstat().st_mode):
                numbers[int(entry.name)] = entry
        elif _is_stray(entry):
            strays.append(escaped(entry.name))
    for name in sorted(strays):
        why = "a version is a folder named by a positive integer without leading zeros, such as 1"
        found.ignored[f"{path.name}/{name}"] = why
    if numbers:
        found.versions[path.name] = dict(sorted(numbers.items()))
    elif strays:
        found.unreadable[path.name] = f"no version in it; {min(strays)!r} is not one"
    else:
        found.empty.add(path.name)


def _is_stray(entry: Path) -> bool:
    """Whether somebody may have meant an entry of a model's folder to be a version."""
    name = entry.name
    if name.startswith("."):
        return False
    try:
        if not entry.is_dir():
            return name == _MODEL_FILE
        return bool(_LIKE_A_VERSION.fullmatch(name)) or (entry / _MODEL_FILE).is_file()
    except OSError:
        return bool(_LIKE_A_VERSION.fullmatch(name))


def _is_folder(path: Path) -> bool:
    """Whether a path is a directory.

    Raises:
        OSError: that cannot be told; of a link to nowhere as well.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(0, "a link to nothing") from None
        raise


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python stands surrogates in for bytes that are not UTF-8
        return False
    return True


def escaped(name: str) -> str:
    """A name as text that can be logged and sent, whatever bytes it is made of."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def signature_of(directory: Path) -> Signature:
    """Returns what tells whether the files of a version have changed; reads none of them.

    The time of the inode is part of it, for copies that keep the time of the content.
    """
    try:
        return tuple(sorted(map(_look_of, directory.iterdir())))
    except OSError:  # it goes away during the look: the next look tells
        return ()


def _look_of(path: Path) -> tuple[str, int, int, int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, for one
        return (path.name, -1, 0, 0, 0)
    return (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
