"""SHA256SUMS of a complete data set: the digest of each file, in the format of `sha256sum`."""

from collections.abc import Collection, Iterator
from itertools import chain
from typing import NamedTuple, Self

from imagemint.dataset.card import CARD_FILE
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import Folder
from imagemint.dataset.formats import load_format
from imagemint.dataset.plan import PLAN_FILE, Plan, Shard

SUMS_FILE = "SHA256SUMS"
_NAMED_FILES = 3  # files that an error names


class Sum(NamedTuple):
    """One line: a file and its digest."""

    name: str
    """Name, relative to the data set, with slashes."""
    sha256: str
    """SHA-256, lower-case hexadecimal."""


class Sums:
    """The files of a complete data set.

    Args:
        plan: the plan.
        sums: the plan, the card, the files of each shard in order, and the joined file if the
            format has one.

    Raises:
        ValueError: these are not the files of the plan.
    """

    def __init__(self, plan: Plan, sums: list[Sum]) -> None:
        shard_format = load_format(plan.format)
        joined = shard_format.name_joined(plan)
        self._lists_images = shard_format.name_file(plan, plan.get_shard(0)) is None
        self._plan = plan
        names = [PLAN_FILE, CARD_FILE]
        end = len(sums) - (joined is not None)
        self.own, self._shards, self.joined = sums[: len(names)], sums[len(names) : end], sums[end:]
        if [each.name for each in self.own] != names:
            raise ValueError(f"it does not begin with {' and '.join(names)}")
        if [each.name for each in self.joined] != ([] if joined is None else [joined]):
            raise ValueError(f"it does not end with {joined}")
        num_files = plan.count if self._lists_images else plan.num_shards
        if len(self._shards) != num_files:
            noun = "images" if self._lists_images else "shards"
            raise ValueError(
                f"it lists {len(self._shards):,} {noun}, and the plan has {num_files:,}"
            )
        for shard in plan.list_shards():
            for at, (name, _) in enumerate(self.list_shard(shard)):
                stem = name.rpartition("/")[2].partition(".")[0]
                expected = shard_format.name_file(plan, shard)
                if expected is None:
                    same = stem == plan.spell_index(shard.first_index + at)
                else:
                    same = name == expected
                if not same:
                    raise ValueError(f"{name} is not the next file of the plan")

    @classmethod
    def parse(cls, content: bytes, plan: Plan) -> Self:
        """Returns the files in the content of SHA256SUMS.

        Raises:
            ValueError: these are not the files of the plan.
        """
        lines = (line.partition("  ") for line in content.decode().splitlines())
        return cls(plan, [Sum(name, digest) for digest, _, name in lines])

    def format(self) -> bytes:
        """Returns the content of SHA256SUMS."""
        return "".join(f"{each.sha256}  {each.name}\n" for each in self).encode()

    def __iter__(self) -> Iterator[Sum]:
        return chain(self.own, self._shards, self.joined)

    def list_shard(self, shard: Shard) -> list[Sum]:
        """Returns the files of a shard."""
        first = shard.number * (self._plan.shard_size if self._lists_images else 1)
        return self._shards[first : first + (shard.count if self._lists_images else 1)]

    def check(self, folder: Folder) -> None:
        """Checks the digest of each file.

        Raises:
            DatasetError: a file is missing or changed.
        """
        found = ((each, folder.compute_digest(each.name)) for each in self)
        wrong = [(each.name, digest) for each, digest in found if digest != each.sha256]
        if wrong:
            name, digest = wrong[0]
            problem = "is missing" if digest is None else "has changed"
            raise _make_error(folder, name, problem, len(wrong) - 1)

    def check_presence(self, folder: Folder, names: Collection[str]) -> None:
        """Checks that each file is there, without reading it.

        Args:
            folder: the place of the data set.
            names: the files that are there.

        Raises:
            DatasetError: a file is missing.
        """
        missing = [each.name for each in self if each.name not in names]
        if missing:
            raise _make_error(folder, missing[0], "is missing", len(missing) - 1)

    def check_no_others(self, folder: Folder) -> None:
        """Checks that the folder has no other files.

        Raises:
            DatasetError: it has.
        """
        others = sorted(folder.list_files().keys() - {SUMS_FILE, *(each.name for each in self)})
        if others:
            listed = ", ".join(others[:_NAMED_FILES]) + (
                ", …" if len(others) > _NAMED_FILES else ""
            )
            raise DatasetError(
                f"{folder.place} has files that are not of the data set, and that readers may take "
                f"for images ({listed}). Move them away"
            )


def _make_error(folder: Folder, name: str, problem: str, others: int) -> DatasetError:
    more = f"; {others:,} more are missing or changed" if others else ""
    return DatasetError(
        f"{folder.place}/{name} {problem} since the data set was completed{more}. Run the command "
        "that made it again with --repair, which makes the shards of such files again and keeps "
        "all others"
    )


def read_sums(folder: Folder, plan: Plan) -> Sums | None:
    """Returns the files of a complete data set; None if it is not complete.

    Raises:
        DatasetError: SHA256SUMS does not list the files of the plan.
    """
    content = folder.read(SUMS_FILE)
    if content is None:
        return None
    try:
        return Sums.parse(content, plan)
    except ValueError as error:
        raise DatasetError(
            f"{folder.place}/{SUMS_FILE} does not list the files of the plan: {error}. Delete it, "
            "and run the command that made the data set again with --repair"
        ) from error
