"""npz shards: pixels as an array, for NumPy, as `imagemint generate --out X.npz` writes them."""

from collections.abc import Iterable

from imagemint.client.images import ImageBatch
from imagemint.client.outputs import write_npz_to
from imagemint.dataset.formats import SPLIT, NewFiles
from imagemint.dataset.plan import Plan, Shard
from imagemint.pictures import TRAINED_ALGORITHMIC_MEDIA


def name_file(plan: Plan, shard: Shard) -> str:
    """Returns the file of a shard."""
    first, last = plan.spell_index(shard.first_index), plan.spell_index(shard.last_index)
    return f"{SPLIT}-{first}-{last}.npz"


def name_joined(plan: Plan) -> None:
    """Returns None: each file belongs to one shard."""
    del plan


def match_files() -> str:
    """Returns the pattern of the files."""
    return f"{SPLIT}-*.npz"


def write(plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles) -> None:
    """Writes the images of a shard."""
    with files.create(name_file(plan, shard)) as file:
        write_npz_to(
            file,
            shard.count,
            batches,
            truncation=plan.truncation,
            class_labels=lambda _: plan.class_labels,
            digital_source_type=TRAINED_ALGORITHMIC_MEDIA,
        )
