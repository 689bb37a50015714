"""Makes one shard, which is the unit of work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imagemint.client.images import ImageBatch
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import Folder, Staging, WrittenFile, publish_shard
from imagemint.dataset.formats import load_format
from imagemint.dataset.plan import Plan, Shard
from imagemint.dataset.sources import Source, Spec


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a worker, as plain data that can be sent to other processes."""

    plan: Plan
    """The plan."""
    spec: Spec
    """Source of the images."""
    place: str
    """Path or address of the data set."""
    repair: bool = False
    """Replace files that differ from the journal."""


class Stopped(Exception):  # noqa: N818 - the run ends, which is not an error of the shard
    """The run ends before this shard is complete."""


def make_shard(
    plan: Plan,
    shard: Shard,
    source: Source,
    folder: Folder,
    report: Callable[[int], None] = lambda _: None,
    *,
    repair: bool = False,
) -> list[WrittenFile]:
    """Makes a shard and publishes it.

    Args:
        plan: the plan.
        shard: which shard.
        source: makes its images.
        folder: the place of the data set.
        report: called with the number of new images after each batch; it may raise Stopped.
        repair: replace files that differ from the journal.

    Returns:
        The files of the shard.
    """
    with folder.stage() as place:
        staging = Staging(place)
        batches = _watch(source.read(shard.first_index, shard.count), shard, report)
        load_format(plan.format).write(plan, shard, batches, staging)
        return publish_shard(folder, shard, staging, repair=repair)


def _watch(
    batches: Iterator[ImageBatch], shard: Shard, report: Callable[[int], None]
) -> Iterator[ImageBatch]:
    """Yields the batches, and checks that each index arrives exactly once and in order."""
    expected = shard.first_index
    for batch in batches:
        if len(batch) == 0 or int(batch.index[0]) != expected:
            raise DatasetError(f"the source skipped or repeated images near index {expected}")
        yield batch
        expected += len(batch)
        report(len(batch))
    if expected != shard.first_index + shard.count:
        raise DatasetError(f"the source ended before index {shard.last_index}")
