"""SHA256SUMS of a complete data set: the digest of each file, in the format of `sha256sum`."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from imagemint.dataset.card import CARD_FILE
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import Folder
from imagemint.dataset.formats import load_format
from imagemint.dataset.plan import PLAN_FILE, Plan, Shard

SUMS_FILE = "SHA256SUMS"
_OWN = [PLAN_FILE, CARD_FILE]
_NAMED_FILES = 3  # files that an error names


class Sum(NamedTuple):
    """One line: a file and its digest."""

    name: str
    """Name, relative to the data set, with slashes."""
    sha256: str
    """SHA-256, lower-case hexadecimal."""


class Sums:
    """The files of a complete data set, which are read from SHA256SUMS whenever they are needed.

    Ten million images in class folders have a gigabyte of lines, so they are not kept.

    Args:
        folder: the place of the data set.
        plan: the plan.

    Raises:
        FileNotFoundError: the data set has no SHA256SUMS.
        ValueError: it does not list the files of the plan: the plan, the card, the files of each
            shard in order, and the joined file if the format has one.
    """

    def __init__(self, folder: Folder, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._lists_images = load_format(plan.format).name_file(plan, plan.get_shard(0)) is None
        self._num_files = plan.count if self._lists_images else plan.num_shards
        joined = load_format(plan.format).name_joined(plan)
        lines = self._read()
        self.own = list(islice(lines, len(_OWN)))
        if [each.name for each in self.own] != _OWN:
            raise ValueError(f"it does not begin with {' and '.join(_OWN)}")
        self.joined: list[Sum] = []
        expected, num_files, misplaced = self._name_files(), 0, ""
        for each in lines:
            file = each
            if joined is not None:  # the last line
                if not self.joined:
                    self.joined = [each]
                    continue
                file, self.joined = self.joined[0], [each]
            num_files += 1
            if self._shorten(file.name) != next(expected, None):
                misplaced = misplaced or file.name
        if [each.name for each in self.joined] != ([] if joined is None else [joined]):
            raise ValueError(f"it does not end with {joined}")
        if num_files != self._num_files:
            noun = "images" if self._lists_images else "shards"
            raise ValueError(f"it lists {num_files:,} {noun}, and the plan has {self._num_files:,}")
        if misplaced:
            raise ValueError(f"{misplaced} is not the next file of the plan")

    def __len__(self) -> int:
        return len(self.own) + self._num_files + len(self.joined)

    def __iter__(self) -> Iterator[Sum]:
        files = (each for _, files in self.list_shards() for each in files)
        return chain(self.own, files, self.joined)

    def list_shards(self) -> Iterator[tuple[Shard, list[Sum]]]:
        """Yields each shard with its files."""
        lines = islice(self._read(), len(_OWN), None)
        for shard in self._plan.list_shards():
            yield shard, list(islice(lines, shard.count if self._lists_images else 1))

    def _read(self) -> Iterator[Sum]:
        for line in self._folder.read_lines(SUMS_FILE):
            digest, _, name = line.decode().rstrip("\n").partition("  ")
            yield Sum(name, digest)

    def _name_files(self) -> Iterator[str | None]:
        """Yields the short name of each file of the plan."""
        plan = self._plan
        if self._lists_images:
            indices = range(plan.first_index, plan.first_index + plan.count)
            return map(plan.spell_index, indices)
        name_file = load_format(plan.format).name_file
        return (name_file(plan, shard) for shard in plan.list_shards())

    def _shorten(self, name: str) -> str:
        """Returns the part of a name that the plan determines: an image's folder is its class."""
        return name.rpartition("/")[2].partition(".")[0] if self._lists_images else name

    def check(self, folder: Folder) -> None:
        """Checks the digest of each file.

        Raises:
            DatasetError: a file is missing or changed.
        """
        found = ((each, folder.compute_digest(each.name)) for each in self)
        wrong = ((each.name, digest) for each, digest in found if digest != each.sha256)
        first = next(wrong, None)
        if first is not None:
            name, digest = first
            problem = "is missing" if digest is None else "has changed"
            raise _make_error(folder, name, problem, sum(1 for _ in wrong))

    def check_presence(self, folder: Folder, names: Collection[str]) -> None:
        """Checks that each file is there, without reading it.

        Args:
            folder: the place of the data set.
            names: the files that are there.

        Raises:
            DatasetError: a file is missing.
        """
        missing = (each.name for each in self if each.name not in names)
        first = next(missing, None)
        if first is not None:
            raise _make_error(folder, first, "is missing", sum(1 for _ in missing))

    def check_no_others(self, folder: Folder) -> None:
        """Checks that a folder with all these files has no others.

        Raises:
            DatasetError: it has.
        """
        num_files = sum(1 for _ in folder.list_files())
        if num_files == len(self) + 1:  # with SHA256SUMS; the names would take much memory
            return
        names = {SUMS_FILE, *(each.name for each in self)}
        others = sorted(name for name in folder.list_files() if name not in names)
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
    try:
        return Sums(folder, plan)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DatasetError(
            f"{folder.place}/{SUMS_FILE} does not list the files of the plan: {error}. Delete it, "
            "and run the command that made the data set again with --repair"
        ) from error


def format_sums(sums: Iterable[Sum]) -> Iterator[bytes]:
    """Yields the lines of SHA256SUMS."""
    return (f"{each.sha256}  {each.name}\n".encode() for each in sums)
