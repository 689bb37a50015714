"""Temporary folders on a local disk, which a later run deletes if their process was killed.

The owner holds a lock on the folder. A lock says more than the number of a process, which another
container with the same temporary folder does not know.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imagemint.client.interrupts import find_interruption

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


def delete_abandoned(note: Callable[[str], None]) -> None:
    """Deletes the folders whose processes have ended. Those of other users are left alone.

    Args:
        note: receives a line for each folder that cannot be deleted.

    Raises:
        OSError: a signal interrupted the deletion; see `find_interruption`.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # it is of another user, or just deleted
            continue
        try:
            if _lock_free(handle):
                shutil.rmtree(path)
        except OSError as error:
            if find_interruption(error) is not None:
                raise
            if not isinstance(error, FileNotFoundError):  # another run deletes it, too
                note(f"cannot delete {path}, which an earlier run left: {error}")
        finally:
            os.close(handle)


def _lock_free(handle: int) -> bool:
    """Locks an open folder, and returns whether no other process holds its lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
