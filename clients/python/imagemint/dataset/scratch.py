"""Temporary folders on a local disk, which a later run deletes if their process was killed.

The owner holds a lock on the folder. A lock says more than the number of a process, which another
container with the same temporary folder does not know.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "imagemint-set-"


@contextlib.contextmanager
def open_scratch() -> Iterator[Path]:
    """Returns a new folder in the temporary folder of this machine; it is deleted at the end."""
    # It gets the name that others look for once it is locked.
    new = Path(tempfile.mkdtemp(prefix=".imagemint-"))
    handle = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    folder = new.with_name(f"{_PREFIX}{new.name.removeprefix('.imagemint-')}")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield new.rename(folder)
    finally:
        for each in (new, folder):
            shutil.rmtree(each, ignore_errors=True)
        os.close(handle)


def delete_abandoned() -> None:
    """Deletes the folders whose processes have ended. Those of other users are left alone."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, or of another user, or just deleted
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(handle)
