"""Opens the folder of a data set: a path, or an address such as s3://bucket/name."""

import re
from pathlib import Path

from imagemint.dataset.folder import Folder, LocalFolder

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+")


def is_address(place: str) -> bool:
    """Returns whether a place is an address of an object store, and not a path."""
    return _ADDRESS.fullmatch(place) is not None and not place.startswith("file://")


def open_folder(place: str) -> Folder:
    """Returns the folder at a path, or at any address that fsspec knows.

    Raises:
        DatasetError: fsspec does not know the address, or lacks the package of the store.
    """
    if not is_address(place):
        return LocalFolder(Path(place.removeprefix("file://")))
    from imagemint.dataset.remote import RemoteFolder  # noqa: PLC0415 - needs the extra

    return RemoteFolder(place)
