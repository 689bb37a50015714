"""Measures whether images of people show what their captions name, and vary otherwise."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.avatar_wordings import (
    HEAD,
    READ,
    Caption,
    Manner,
    decode_person,
    draw_caption,
)
from imagemint.training.evaluation.extractors import Extractor, Judge
from imagemint.training.evaluation.measuring import Measured
from imagemint.training.evaluation.sources import CaptionedSource, Source, takes_captions

_PEOPLE = 2_000
_CAPTIONS, _EACH = 40, 50
_STREAM = 1
_MANNERS: tuple[tuple[Manner, str, str], ...] = (
    ("data", "caption_accuracy", "captions of the test split"),
    ("order", "caption_accuracy_other_order", "the same with the phrases in another order"),
    ("part", "caption_accuracy_parts", "captions that name a part of the person"),
)
_STYLE = "top"  # only captions of bald people name it

Recognised = dict[str, NDArray[np.int64]]
"""The values that the judge recognises in N images, int64 [N], by attribute of `READ`."""


def draw_images(
    source: Source, test: LabelledImages, seed: int, samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Returns images at indices 0 to ``samples - 1`` of a seed, and the requested classes.

    A model that takes captions is given those of the test split in turn, which name the classes.
    """
    if not (takes_captions(source) and test.texts):
        return source.draw(seed, 0, samples)
    rows = np.arange(samples) % len(test)
    return source.draw_captions(seed, 0, [test.texts[row] for row in rows]), test.labels[rows]


def measure_captions(
    source: Source, judge: Extractor | None, test: LabelledImages, seed: int
) -> Iterator[Measured]:
    """Yields how well images match captions of the first 2,000 people of the test split.

    Yields nothing if the source takes no captions, or if judge or split lack the attributes of
    `avatars64`.

    Args:
        source: a generator.
        judge: recognises the attributes of people.
        test: pictures of people.
        seed: seed of the latents.
    """
    if not takes_captions(source):
        return
    labelled = {attribute.name for attribute in test.attributes}
    if not (isinstance(judge, Judge) and labelled & judge.attribute_names >= READ.keys() - {HEAD}):
        return
    known = {attribute.name: attribute for attribute in test.attributes}
    people = np.stack([test.labels, *(known[name].codes for name in list(READ)[1:])], axis=1)
    people = people[:_PEOPLE]
    hidden = {
        name: ~attribute.visible[:_PEOPLE]
        for name, attribute in known.items()
        if attribute.visible is not None
    }
    real = _recognise(judge, test.images[: len(people)])
    for manner, metric, what in _MANNERS:
        captions = _draw_captions(people, manner)
        images = source.draw_captions(seed, 0, [caption.text for caption in captions])
        shares = _compute_shares(captions, _recognise(judge, images), hidden)
        rivals = _compute_shares(captions, real, hidden)
        detail = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        yield Measured(
            metric,
            float(np.mean([*shares.values()])),
            f"share of {len(captions):,} images that show what their caption names, mean over the"
            f" attributes; {what}; reference: the judge on the real images",
            float(np.mean([*rivals.values()])),
            detail,
        )
    yield _measure_variety(source, judge, seed, people, real)


def _recognise(judge: Judge, images: NDArray[np.uint8]) -> Recognised:
    return {HEAD: judge.extract(images).classes, **judge.predict_attributes(images)}


def _draw_captions(people: NDArray[np.int64], manner: Manner) -> list[Caption]:
    rng = np.random.Generator(np.random.Philox(key=[0, _STREAM]))
    return [draw_caption(*decode_person(row), rng, manner) for row in people]


def _compute_shares(
    captions: Sequence[Caption], recognised: Recognised, hidden: dict[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """Returns the share of images that show the named value, for each attribute that is named.

    Args:
        captions: captions of N images.
        recognised: recognised values of these images.
        hidden: whether the person of a caption does not show an attribute, bool [N].
    """
    shares = {}
    for name, values in READ.items():
        names = [
            row
            for row, caption in enumerate(captions)
            if name in caption.attributes and not (name in hidden and hidden[name][row])
        ]
        if names and name != _STYLE:
            right = [
                values[recognised[name][row]] in captions[row].attributes[name] for row in names
            ]
            shares[name] = float(np.mean(right))
    return shares


def _measure_variety(
    source: CaptionedSource, judge: Judge, seed: int, people: NDArray[np.int64], real: Recognised
) -> Measured:
    captions = _draw_captions(people[:_CAPTIONS], "part")
    texts = [caption.text for caption in captions for _ in range(_EACH)]
    recognised = _recognise(judge, source.draw_captions(seed, 0, texts))
    found, usual = [], []
    for number, caption in enumerate(captions):
        rows = slice(number * _EACH, (number + 1) * _EACH)
        free_names = [name for name in READ if name not in caption.allowed and name != _STYLE]
        found += [_differ(recognised[name][rows], len(READ[name])) for name in free_names]
        usual += [_differ(real[name], len(READ[name])) for name in free_names]
    return Measured(
        "open_attribute_variety",
        float(np.mean(found)),
        f"how often two images of one caption differ in an attribute that it leaves open, mean over"
        f" the attributes of {len(captions)} captions with {_EACH} images each; reference: two real"
        " images",
        float(np.mean(usual)),
    )


def _differ(codes: NDArray[np.int64], values: int) -> float:
    """Returns the probability that two of N codes, without replacement, differ."""
    counts = np.bincount(codes, minlength=values)
    count = len(codes)
    return float(1 - (counts * (counts - 1)).sum() / (count * (count - 1)))
