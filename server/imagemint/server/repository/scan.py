"""Scans a model repository for versions without opening any file."""

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, change times and inode of each file of a version; it differs if a file changed."""

VERSION = re.compile(r"[1-9][0-9]*")
"""Form of the name of a version."""
# Names that look like versions but are not valid: 01, v1, 1.0, full-width digits.
_LIKE_A_VERSION = re.compile(r"[vV]?[-+]?\d+(\.\d+)*")
_MODEL_FILE = "model.onnx"
_LOST_FOUND = "lost+found"  # exists at the root of a volume; only root can read it


@dataclass
class Found:
    """The result of a scan."""

    versions: dict[str, dict[int, Path]] = field(default_factory=dict)
    """Directories by model and version number, oldest first; only models with a version."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reasons by name for entries that cannot be read, or that contain only invalid versions."""
    empty: set[str] = field(default_factory=set)
    """Directories of models that contain no version."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Reasons by escaped path for other paths that look like models but are not served."""


def scan(directory: Path) -> Found:
    """Returns the versions in a repository.

    A directory ``<model>/<number>/`` is a version. An unreadable entry is distinguished from a
    missing one. Hidden directories are ignored, so that an export can prepare a version there.

    Raises:
        OSError: the repository itself cannot be listed.
    """
    found = Found()
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name == _LOST_FOUND:
            continue
        if not _is_text(path.name):
            found.ignored[escape_name(path.name)] = "its name is not UTF-8"
            continue
        try:
            if _is_folder(path):
                _scan_model(path, found)
            elif path.name == _MODEL_FILE:
                found.ignored[path.name] = "a model must be in a folder <model>/<version>/"
        except FileNotFoundError:
            continue  # removed during the scan
        except OSError as error:
            found.unreadable[path.name] = error.strerror or type(error).__name__
    return found


def _scan_model(path: Path, found: Found) -> None:
    numbers: dict[int, Path] = {}
    strays: list[str] = []
    for entry in path.iterdir():
        if VERSION.fullmatch(entry.name):
            # An unreadable entry counts as a version, so that loading it reports why it fails.
            if entry.is_symlink() or stat.S_ISDIR(entry.lstat().st_mode):
                numbers[int(entry.name)] = entry
        elif _is_stray(entry):
            strays.append(escape_name(entry.name))
    for name in sorted(strays):
        why = "the name of a version must be a positive integer without leading zeros, such as 1"
        found.ignored[f"{path.name}/{name}"] = why
    if numbers:
        found.versions[path.name] = dict(sorted(numbers.items()))
    elif strays:
        found.unreadable[path.name] = f"it contains no version; {min(strays)!r} is not a version"
    else:
        found.empty.add(path.name)


def _is_stray(entry: Path) -> bool:
    """Returns whether an entry of a model's directory looks like a version but is not one."""
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
    """Returns whether a path is a directory.

    Raises:
        OSError: the path cannot be read, or is a broken link.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(0, "broken link") from None
        raise


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python represents bytes that are not UTF-8 as surrogates
        return False
    return True


def escape_name(name: str) -> str:
    """Returns a file name as text that can be logged and sent, with other bytes escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_signature(directory: Path) -> Signature:
    """Returns the metadata of the files of a version, to detect changes without reading them.

    It includes the change time of the inode, because copies can keep the modification time.
    """
    try:
        return tuple(sorted(map(_read_file_signature, directory.iterdir())))
    except OSError:  # removed during the scan; the next scan notices
        return ()


def _read_file_signature(path: Path) -> tuple[str, int, int, int, int]:
    try:
        status = path.stat()
    except OSError:  # for example a broken link
        return (path.name, -1, 0, 0, 0)
    return (path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
