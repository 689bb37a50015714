"""Encodes the images of batches, with their serials inside."""

from collections.abc import Iterator
from dataclasses import dataclass

from imagemint.client.images import ImageBatch, Scores
from imagemint.dataset.plan import Plan
from imagemint.pictures import DEFAULT_QUALITY, PictureFormat, encode

CAPTION = "text"
"""Name of the caption in tables."""
REJECTED = "rejected"
"""Name of the number of rejected candidates, beside the scores."""
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""Suffix of a file name for each encoding."""


@dataclass(slots=True)  # not frozen: creating a million takes twice as long
class Picture:
    """One encoded image."""

    index: int
    """Index of the image."""
    class_id: int | None
    """Class; None for a model without classes."""
    caption: str | None
    """Caption; None for a model without captions."""
    serial: str
    """Serial number."""
    data: bytes
    """The file."""
    scores: dict[str, float] | None
    """Each score by its name, and the number of rejected candidates; None without a filter."""


def encode_batch(plan: Plan, batch: ImageBatch) -> Iterator[Picture]:
    """Yields the images of a batch as files, the same bytes that a server would send."""
    picture_format = PictureFormat(plan.image_format)
    quality = DEFAULT_QUALITY if plan.quality is None else plan.quality
    classes: list[int | None] = (
        [None] * len(batch) if batch.class_id is None else batch.class_id.tolist()
    )
    captions = batch.captions or [None] * len(batch)
    scores = _list_scores(batch.scores) if batch.scores else [None] * len(batch)
    for index, class_id, caption, serial, pixels, scored in zip(
        batch.index.tolist(), classes, captions, batch.serials, batch.image, scores, strict=True
    ):
        data = encode(pixels, [serial], picture_format, quality, variant=batch.variant)
        yield Picture(index, class_id, caption, serial, data, scored)


def _list_scores(scores: Scores) -> list[dict[str, float]]:
    """Returns the scores of each image by name."""
    scores_by_name = scores.by_name() | {REJECTED: scores.rejected}
    rows = zip(*(values.tolist() for values in scores_by_name.values()), strict=True)
    return [dict(zip(scores_by_name, row, strict=True)) for row in rows]
