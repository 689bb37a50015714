"""Makes a data set: the missing shards, then the card and the checksums."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain

from imagemint.dataset.card import CARD_FILE, format_card
from imagemint.dataset.errors import DatasetError, OtherPlan
from imagemint.dataset.folder import (
    Folder,
    Journal,
    Staging,
    WrittenFile,
    flush,
    make_foreign_file_error,
)
from imagemint.dataset.formats import is_part, load_format, name_part
from imagemint.dataset.plan import PLAN_FILE, Plan, Shard, spell_software
from imagemint.dataset.progress import Progress
from imagemint.dataset.shards import Task, make_shard

SUMS_FILE = "SHA256SUMS"
_NAMED_FILES = 3  # foreign files that an error names


def read_plan(folder: Folder) -> Plan | None:
    """Returns the plan of the data set in a folder; None if there is none."""
    content = folder.read(PLAN_FILE)
    return None if content is None else Plan.parse(content, f"{folder.place}/{PLAN_FILE}")


def claim_folder(folder: Folder, plan: Plan) -> None:
    """Writes the plan into a new folder; see `check_folder` for the errors."""
    if check_folder(folder, plan):
        folder.put(PLAN_FILE, plan.to_json())


def check_folder(folder: Folder, plan: Plan) -> bool:
    """Returns whether a folder is empty; otherwise it has this plan.

    Raises:
        OtherPlan: the folder has another plan, or foreign files.
    """
    existing = read_plan(folder)
    if existing is None:
        if foreign_files := folder.list_foreign_files():
            more = ", …" if len(foreign_files) > _NAMED_FILES else ""
            named = ", ".join(foreign_files[:_NAMED_FILES]) + more
            raise OtherPlan(
                f"{folder.place} is not empty and holds no data set ({named}); name another folder"
            )
        return True
    if replace(existing, software=plan.software) == plan != existing:
        raise OtherPlan(
            f"{folder.place} was begun with {spell_software(existing.software)}; here is "
            f"{spell_software(plan.software)}, which writes other bytes. Install the same releases "
            "to continue"
        )
    if existing != plan:
        raise OtherPlan(
            f"{folder.place} holds another data set: {existing.describe_difference(plan)}; name "
            "another folder"
        )
    return False


def is_complete(folder: Folder, plan: Plan) -> bool:
    """Returns whether a data set is complete, after checking the digest of each file.

    Raises:
        DatasetError: the data set is complete, but a file is missing or changed.
    """
    sums = folder.read(SUMS_FILE)
    if sums is None:
        return False
    check_sums(folder, sums, plan)
    return True


def check_sums(folder: Folder, sums: bytes, plan: Plan) -> None:
    """Checks the digest of each file of a complete data set.

    Raises:
        DatasetError: a file is missing or changed.
    """
    checked = 0
    for line in sums.decode().splitlines():
        digest, _, name = line.partition("  ")
        found = folder.compute_digest(name)
        if found != digest:
            what = "is missing" if found is None else "has changed"
            raise DatasetError(
                f"{folder.place}/{name} {what} since the data set was completed; restore it, or "
                "make the data set in another folder"
            )
        checked += 1
    if checked < plan.num_shards:
        raise DatasetError(f"{folder.place}/{SUMS_FILE} does not list all shards")


def list_missing(folder: Folder, plan: Plan, on_done: Callable[[Shard], None]) -> Iterator[Shard]:
    """Yields the shards that must be made, one after the other.

    Args:
        folder: the place of the data set.
        plan: the plan.
        on_done: called with each shard that exists.

    Raises:
        OtherPlan: a file has changed, or a foreign file has the name of a shard.
    """
    journal, shard_format = Journal(folder), load_format(plan.format)
    for shard in plan.list_shards():
        entry = journal.read(shard)
        if entry is None:
            name = shard_format.name_file(plan, shard)
            if name is not None and folder.compute_digest(name) is not None:
                raise make_foreign_file_error(folder, name)
            yield shard
        elif _has_all(folder, entry):
            on_done(shard)
        else:
            yield shard


def _has_all(folder: Folder, entry: list[WrittenFile]) -> bool:
    digests = [(each, folder.compute_digest(each.name)) for each in entry]
    for each, digest in digests:
        if digest not in (None, each.sha256):
            raise make_foreign_file_error(folder, each.name)
    return all(digest is not None for _, digest in digests)


def make_here(task: Task, folder: Folder, missing: Iterator[Shard], progress: Progress) -> None:
    """Makes shards in this process, one after the other."""
    first = next(missing, None)
    if first is None:  # without missing shards, do not open the source, which takes long
        return
    with closing(task.spec.open_source(task.plan, 0)) as source:
        for shard in chain([first], missing):
            files = make_shard(task.plan, shard, source, folder, progress.add_images)
            progress.add_bytes(sum(each.size for each in files))


def finish(folder: Folder, plan: Plan) -> int:
    """Writes the card and the checksums of a data set that has all its shards.

    Returns:
        The size of all shards in bytes.
    """
    journal = Journal(folder)
    joined = _join_parts(folder, plan)
    num_bytes = sum(each.size for each in _list_files(journal, plan))
    card = format_card(plan, num_bytes)
    existing = folder.read(CARD_FILE)
    if existing not in (None, card):
        raise make_foreign_file_error(folder, CARD_FILE)
    if existing is None:
        folder.put(CARD_FILE, card)
    folder.put(SUMS_FILE, b"".join(_format_sums(journal, plan, card, joined)))
    return num_bytes


def _join_parts(folder: Folder, plan: Plan) -> list[WrittenFile]:
    """Writes the file that consists of a part of each shard; returns it, or [] without one."""
    name = load_format(plan.format).name_joined(plan)
    if name is None:
        return []
    with folder.stage() as place:
        staging = Staging(place)
        with staging.create(name) as file:
            for shard in plan.list_shards():
                part = folder.read(name_part(shard))
                if part is None:
                    raise _make_unfinished_error(shard)
                file.write(part)
        (written,) = staging.describe()
        digest = folder.compute_digest(name)
        if digest not in (None, written.sha256):
            raise make_foreign_file_error(folder, name)
        if digest is None:
            flush([staging.staged[name]])
            folder.publish(staging.staged[name], name)
    return [written]


def _list_files(journal: Journal, plan: Plan) -> Iterator[WrittenFile]:
    for shard in plan.list_shards():
        entry = journal.read(shard)
        if entry is None:
            raise _make_unfinished_error(shard)
        yield from entry


def _make_unfinished_error(shard: Shard) -> DatasetError:
    return DatasetError(f"shard {shard.number} is not finished; run the same command again")


def _format_sums(
    journal: Journal, plan: Plan, card: bytes, joined: list[WrittenFile]
) -> Iterator[bytes]:
    for name, content in ((PLAN_FILE, plan.to_json()), (CARD_FILE, card)):
        yield f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
    for each in chain(_list_files(journal, plan), joined):
        if not is_part(each.name):
            yield f"{each.sha256}  {each.name}\n".encode()
