"""An object store in memory that a test can make unreachable. Imported by name."""

from contextlib import contextmanager

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class SwitchedStore(MemoryFileSystem):
    """Objects in memory. While the store is down, it fails like a lost network.

    Attributes:
        is_down: whether it is unreachable.
        read: names of the objects that were read.
    """

    protocol = "switched"
    is_down = False
    read = ()

    def find(self, *arguments, **options):
        """Lists everything."""
        self._check()
        return super().find(*arguments, **options)

    def open(self, path, *arguments, **options):
        """Opens an object."""
        self._check()
        type(self).read += (path.rpartition("/")[2],)
        return super().open(path, *arguments, **options)

    def _check(self):
        if self.is_down:
            raise ConnectionError("no route to host")


@contextmanager
def switched_store():
    """Registers an empty store for addresses of `switched://`; yields its class."""
    fsspec.register_implementation("switched", SwitchedStore, clobber=True)
    try:
        yield SwitchedStore
    finally:
        SwitchedStore.store.clear()
        SwitchedStore.is_down, SwitchedStore.read = False, ()


def put_directory(address, directory):
    """Uploads the files of a directory."""
    files, root = fsspec.core.url_to_fs(address)
    for path in directory.iterdir():
        files.makedirs(root, exist_ok=True)
        files.pipe_file(f"{root}/{path.name}", path.read_bytes())
