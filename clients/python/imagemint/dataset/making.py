"""Makes a data set: the missing shards, then the card and the checksums."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice

from imagemint.dataset.card import CARD_FILE, format_card
from imagemint.dataset.errors import DatasetError, OtherPlan
from imagemint.dataset.folder import (
    WORK,
    Folder,
    Journal,
    Staging,
    WrittenFile,
    flush,
    is_of_system,
    make_foreign_file_error,
    name_entry,
)
from imagemint.dataset.formats import is_part, load_format, name_part
from imagemint.dataset.plan import PLAN_FILE, Plan, Shard, list_other_software, spell_software
from imagemint.dataset.progress import Progress
from imagemint.dataset.shards import Task, make_shard
from imagemint.dataset.sums import SUMS_FILE, Sum, Sums, format_sums, read_sums

_NAMED_FILES = 3  # foreign files that an error names


def read_plan(folder: Folder) -> Plan | None:
    """Returns the plan of the data set in a folder; None if there is none."""
    content = folder.read(PLAN_FILE)
    return None if content is None else Plan.parse(content, f"{folder.place}/{PLAN_FILE}")


def claim_folder(folder: Folder, plan: Plan) -> None:
    """Writes the plan into a new folder, or one with fewer tries; see `check_folder` for errors."""
    if check_folder(folder, plan):
        folder.forget()
        folder.put(PLAN_FILE, plan.to_json())
    elif read_plan(folder) != plan:
        folder.put(PLAN_FILE, plan.to_json())


def check_folder(folder: Folder, plan: Plan) -> bool:
    """Returns whether a folder is empty; otherwise it has this plan, or one with fewer tries.

    Raises:
        OtherPlan: the folder has another plan, or foreign files.
    """
    existing = read_plan(folder)
    if existing is None:
        names = folder.list_names()
        if foreign_files := [name for name in names if name != WORK and not is_of_system(name)]:
            more = ", …" if len(foreign_files) > _NAMED_FILES else ""
            listed = ", ".join(foreign_files[:_NAMED_FILES]) + more
            raise OtherPlan(
                f"{folder.place} is not empty and holds no data set ({listed}); name another folder"
            )
        folder.check_root()
        return True
    if plan.raises_tries(existing):
        return False
    others = list_other_software(existing.software, plan.software)
    if others and replace(existing, software=plan.software) == plan:
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
    """Returns whether a data set is complete, after a check of its files.

    Files on this machine are read, and their digests compared. A store is listed once: digests
    would take a download of each file.

    Raises:
        DatasetError: the data set is complete, but a file is missing or, on this machine, changed.
    """
    sums = read_sums(folder, plan)
    if sums is None:
        return False
    sizes = folder.survey()
    if sizes is None:
        sums.check(folder)
    else:
        sums.check_presence(folder, sizes)
    return True


def list_missing(
    folder: Folder, plan: Plan, on_done: Callable[[Shard], None], *, repair: bool = False
) -> Iterator[Shard]:
    """Yields the shards that must be made, one after the other.

    A store is listed once, and sizes are compared: digests would take a download of each file.

    Args:
        folder: the place of the data set.
        plan: the plan.
        on_done: called with each shard that exists.
        repair: also yield shards whose files have changed, or are not in the journal.

    Raises:
        OtherPlan: a file has changed, or a foreign file has the name of a shard.
    """
    journal, shard_format = Journal(folder), load_format(plan.format)
    sizes = None if repair else folder.survey()
    for shard in plan.list_shards():
        entry = None
        if sizes is None or name_entry(shard) in sizes:
            entry = journal.read(shard)
        if entry is None:
            name = shard_format.name_file(plan, shard)
            if not repair and name is not None and _exists(folder, name, sizes):
                raise make_foreign_file_error(folder, name)
            yield shard
        elif _has_all(folder, entry, sizes, repair=repair):
            on_done(shard)
        else:
            yield shard


def _exists(folder: Folder, name: str, sizes: dict[str, int] | None) -> bool:
    return folder.compute_digest(name) is not None if sizes is None else name in sizes


def _has_all(
    folder: Folder, entry: list[WrittenFile], sizes: dict[str, int] | None, *, repair: bool
) -> bool:
    has_all = True
    for file in entry:
        expected, found = (
            (file.sha256, folder.compute_digest(file.name))
            if sizes is None
            else (file.size, sizes.get(file.name))
        )
        if not repair and found not in (None, expected):
            raise make_foreign_file_error(folder, file.name)
        has_all = has_all and found == expected
    return has_all


def list_damaged(folder: Folder, sums: Sums, on_done: Callable[[Shard], None]) -> Iterator[Shard]:
    """Yields the shards of a complete data set that must be made again, one after the other.

    They are entered in the journal as SHA256SUMS lists them, so that no other bytes can replace
    them.

    Args:
        folder: the place of the data set.
        sums: the files of the data set.
        on_done: called with each shard that is intact.
    """
    journal = Journal(folder)
    # A joined file needs a part of each shard.
    makes_all = any(folder.compute_digest(each.name) != each.sha256 for each in sums.joined)
    for shard, files in sums.list_shards():
        if not makes_all and all(folder.compute_digest(file.name) == file.sha256 for file in files):
            on_done(shard)
        else:
            journal.write(shard, [WrittenFile(file.name, 0, file.sha256) for file in files])
            yield shard


def make_here(task: Task, folder: Folder, missing: Iterator[Shard], progress: Progress) -> None:
    """Makes shards in this process, one after the other."""
    first = next(missing, None)
    if first is None:  # without missing shards, do not open the source, which takes long
        return
    with closing(task.spec.open_source(task.plan, 0)) as source:
        for shard in chain([first], missing):
            files = make_shard(
                task.plan, shard, source, folder, progress.add_images, repair=task.repair
            )
            progress.add_bytes(sum(file.size for file in files))


def finish(folder: Folder, plan: Plan, *, repair: bool = False) -> int:
    """Writes the card and the checksums of a data set that has all its shards.

    Args:
        folder: the place of the data set.
        plan: the plan.
        repair: replace a joined file that has changed.

    Returns:
        The size of all shards in bytes.
    """
    journal = Journal(folder)
    joined = _join_parts(folder, plan, repair=repair)
    with folder.stage() as place:
        # The size of all shards is in the card, whose digest is before theirs.
        listing, num_bytes = place / "shards", 0
        with listing.open("wb") as lines:
            for file in _list_files(journal, plan):
                num_bytes += file.size
                if not is_part(file.name):
                    lines.writelines(format_sums([Sum(file.name, file.sha256)]))
        card = format_card(plan, num_bytes)
        existing = folder.read(CARD_FILE)
        if existing not in (None, card):
            raise make_foreign_file_error(folder, CARD_FILE)
        if existing is None:
            folder.put(CARD_FILE, card)
        own = [_sum_up(PLAN_FILE, plan.to_json()), _sum_up(CARD_FILE, card)]
        with listing.open("rb") as lines:
            folder.put_parts(SUMS_FILE, chain(format_sums(own), lines, format_sums(joined)))
    return num_bytes


def finish_repair(folder: Folder, plan: Plan, sums: Sums) -> int:
    """Repairs the other files of a complete data set whose shards are all right.

    Returns:
        The size of all shards in bytes.
    """
    if any(folder.compute_digest(each.name) != each.sha256 for each in sums.joined):
        _join_parts(folder, plan, repair=True)
    num_bytes = folder.measure(each.name for each in islice(sums, len(sums.own), None))
    for at, content in enumerate((plan.to_json(), format_card(plan, num_bytes))):
        name, digest = sums.own[at]
        if folder.compute_digest(name) != digest:
            folder.put(name, content)
            # Another release of imagemint can word the card in another way.
            sums.own[at] = _sum_up(name, content)
    folder.put_parts(SUMS_FILE, format_sums(sums))
    return num_bytes


def _join_parts(folder: Folder, plan: Plan, *, repair: bool) -> list[Sum]:
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
        if digest not in (None, written.sha256) and not repair:
            raise make_foreign_file_error(folder, name)
        if digest != written.sha256:
            flush([staging.staged[name]])
            folder.publish(staging.staged[name], name)
    return [Sum(name, written.sha256)]


def _list_files(journal: Journal, plan: Plan) -> Iterator[WrittenFile]:
    for shard in plan.list_shards():
        entry = journal.read(shard)
        if entry is None:
            raise _make_unfinished_error(shard)
        yield from entry


def _make_unfinished_error(shard: Shard) -> DatasetError:
    return DatasetError(f"shard {shard.number} is not finished; run the same command again")


def _sum_up(name: str, content: bytes) -> Sum:
    return Sum(name, hashlib.sha256(content).hexdigest())
