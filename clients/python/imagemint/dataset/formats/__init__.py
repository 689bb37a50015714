"""The formats of a data set. Each writes one shard at a time, and holds a few images in memory.

Each module of this package has the functions of `ShardFormat`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import IO, Protocol, cast

from imagemint.client.images import ImageBatch
from imagemint.dataset.folder import WORK
from imagemint.dataset.plan import FormatName, Plan, Shard

SPLIT = "train"
"""Name of the one split of a data set, as the Hugging Face hub expects it."""


class NewFiles(Protocol):
    """Takes the files of a shard. None of them is visible before the shard is complete."""

    def create(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Opens a new file; `name` is relative to the data set, with slashes."""

    def add(self, name: str, content: bytes) -> None:
        """Writes a small file at once."""


class ShardFormat(Protocol):
    """One format."""

    def name_file(self, plan: Plan, shard: Shard) -> str | None:
        """Returns the file of a shard; None if a shard has a file for each image."""

    def write(
        self, plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles
    ) -> None:
        """Writes the images of a shard."""

    def name_joined(self, plan: Plan) -> str | None:
        """Returns the file that consists of a part of each shard, in order; None if there is none.

        A shard writes its part as `name_part`.
        """

    def match_files(self) -> str:
        """Returns the pattern of the files of the split, for the card."""


def name_part(shard: Shard) -> str:
    """Returns the file with a shard's part of the joined file, which is kept until all are done."""
    return f"{WORK}/parts/{shard.number:08d}"


def is_part(name: str) -> bool:
    """Returns whether a file is a part of the joined file."""
    return name.startswith(f"{WORK}/")


def load_format(name: FormatName) -> ShardFormat:
    """Returns a format by its name. Its module is imported here, because it can need an extra."""
    return cast("ShardFormat", import_module(f"{__name__}.{name}"))
