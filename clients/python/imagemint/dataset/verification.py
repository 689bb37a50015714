"""Makes shards of a finished data set again, and compares their bytes."""

import hashlib
import random
from collections.abc import Sequence
from contextlib import closing
from itertools import islice

from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import Folder, Staging
from imagemint.dataset.formats import is_part, load_format
from imagemint.dataset.plan import Plan, Shard, list_other_software, spell_software
from imagemint.dataset.progress import Progress
from imagemint.dataset.scratch import open_scratch
from imagemint.dataset.sources import Spec
from imagemint.dataset.sums import SUMS_FILE, read_sums


def choose_shards(plan: Plan, images: int | None, seed: int) -> list[Shard]:
    """Returns shards that hold at least `images` images, in order.

    Args:
        plan: the plan.
        images: the smallest number of images; None for all.
        seed: which choice.
    """
    if images is None or images >= plan.count:
        return list(plan.list_shards())
    # One more than full shards would need, because the last shard can have fewer images.
    most = min(plan.num_shards, -(-images // plan.shard_size) + 1)
    drawn = random.Random(seed).sample(range(plan.num_shards), most)  # noqa: S311 - a sample
    chosen: list[Shard] = []
    for number in drawn:
        if images <= 0:
            break
        chosen.append(plan.get_shard(number))
        images -= chosen[-1].count
    return sorted(chosen, key=lambda each: each.number)


def verify(  # noqa: PLR0917 - the data set, the source, and what to do
    plan: Plan,
    spec: Spec,
    software: dict[str, str],
    folder: Folder,
    shards: Sequence[Shard],
    progress: Progress,
) -> None:
    """Checks the digest of each file, then makes the shards again and compares their bytes.

    Args:
        plan: the plan.
        spec: the source.
        software: releases of the libraries that determine the bytes here.
        folder: the place of the data set.
        shards: the shards to make again.
        progress: counts the images.

    Raises:
        DatasetError: the data set is incomplete, differs, or has other files.
    """
    sums = read_sums(folder, plan)
    if sums is None:
        raise DatasetError(
            f"{folder.place} has no {SUMS_FILE}: the data set is not complete. Run the command "
            "that made it again"
        )
    sums.check(folder)
    sums.check_no_others(folder)
    if list_other_software(plan.software, software):
        raise DatasetError(
            f"{folder.place} was written with {spell_software(plan.software)}; here is "
            f"{spell_software(software)}, which writes other bytes. Install the same releases to "
            "compare"
        )
    shard_format = load_format(plan.format)
    joined = shard_format.name_joined(plan)
    lines, at = folder.read_lines(joined) if joined else iter(()), plan.first_index
    with closing(spec.open_source(plan, 0)) as source:
        for shard in shards:
            with open_scratch() as place:
                staging = Staging(place)
                batches = source.read(shard.first_index, shard.count)
                shard_format.write(plan, shard, batches, staging)
                for file in staging.describe():
                    if joined and is_part(file.name):
                        # A line for each image, in the order of the index, as the shards have.
                        name, begin = joined, shard.first_index - at
                        part = b"".join(islice(lines, begin, begin + shard.count))
                        at = shard.last_index + 1
                        same = hashlib.sha256(part).hexdigest() == file.sha256
                    else:
                        name, same = file.name, folder.compute_digest(file.name) == file.sha256
                    if not same:
                        raise DatasetError(
                            f"{folder.place}/{name} differs from the images that its plan makes"
                        )
            progress.add_images(shard.count)
