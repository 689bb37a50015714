"""Measures a source against the real test set, by a recorded protocol."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemint.training.data_options import DataOptions
from imagemint.training.datasets import LabelledImages, find_cache_directory
from imagemint.training.datasets.sufficiency import COMPARABLE, NEIGHBOURS, STEADY
from imagemint.training.durable import flush_directory
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation.album import Album
from imagemint.training.evaluation.captioned import draw_images, measure_captions
from imagemint.training.evaluation.classifying import measure_discriminator
from imagemint.training.evaluation.extractors import (
    Extracted,
    Extractor,
    StackedJudge,
    describe_classes,
    judge_of_classes,
)
from imagemint.training.evaluation.files import FileSource
from imagemint.training.evaluation.measuring import Measured, Sample, measure
from imagemint.training.evaluation.real_images import (
    STACKED,
    extract_real_images,
    load_real_images,
)
from imagemint.training.evaluation.sources import RunSource, Source
from imagemint.training.evaluation_report import (
    EvaluationFigure,
    Setup,
    is_own_data,
    read_report,
    write_report,
    write_table,
)

# Part of the key of every cached result. Increase it if the meaning of a figure changes.
_VERSION = 4
_SAMPLES = 10_000
_STACKED_SAMPLES = 26_000  # as in all papers that count modes
# A judge below this accuracy is not reliable: one rated colour noise above real pictures.
WEAK_JUDGE = 0.8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """The protocol of an evaluation.

    Attributes:
        samples: images of a seed, the classes in turn; None for 10,000, or 26,000 of Stacked MNIST.
            All images of an .npz or a folder are used.
        seed: first seed; images are drawn from index 0 on.
        seeds: number of seeds from there on; each gives a separate sample.
        dataset: real data to compare with. Default: the training data of the source, or those of
            the judge.
    """

    samples: int | None = None
    seed: int = 0
    seeds: int = 1
    dataset: str | None = None


def evaluate(
    source: Source,
    extractor: Extractor,
    judge: Extractor | None,
    protocol: Protocol,
    data: Path | None = None,
    *,
    out: Path | None = None,
    cache: bool = True,
    reading: DataOptions | None = None,
) -> list[EvaluationFigure]:
    """Returns the figures of a source, each the mean over the seeds.

    A result is kept in the user's cache under the digests of weights, data and extractor and the
    protocol, and found there again. Those of a run against its own data set are also written to its
    ``evaluation.json``, where the exporter finds them. Warnings about the result (`find_doubts`)
    are logged, and stand above the table and in the protocol of each figure.

    Args:
        source: the generator to be measured.
        extractor: network whose features are compared.
        judge: network that classifies the images; None if there is none.
        protocol: what is measured.
        data: folder of the data sets.
        out: folder for ``figures.json``, ``table.md`` and pictures; None writes none.
        cache: whether the result of an earlier evaluation may be returned.
        reading: options for reading the data set. None: those of the run.

    Raises:
        DatasetError: real data are missing or too few, or the images or classes do not match them.
    """
    dataset = protocol.dataset or source.dataset or _get_data_set(judge)
    if dataset is None:
        raise DatasetError(f"{source.name} does not name its data set; name one with --dataset")
    train, test = (
        load_real_images(split, dataset, source, data, reading) for split in ("train", "test")
    )
    if isinstance(source, FileSource):
        source.name_classes(test.class_labels)
    if dataset == STACKED and judge is not None:
        stacked: Extractor = StackedJudge(judge)
        extractor, judge = (stacked if extractor is judge else extractor), stacked
    judge = judge_of_classes(judge, train)
    samples = protocol.samples or (_STACKED_SAMPLES if dataset == STACKED else _SAMPLES)
    seeds = 1 if isinstance(source, FileSource) else protocol.seeds
    warnings = [*find_doubts(extractor, judge, test), *_find_other_classes(source, test)]
    for warning in warnings:
        _log.warning("%s", warning)
    digests = [source.sha256, extractor.sha256, judge.sha256 if judge else ""]
    labels = [source.class_labels, train.class_labels, test.class_labels]
    key = _make_key([*digests, train.sha256, test.sha256], labels, [samples, protocol.seed, seeds])
    kept = find_cache_directory().with_name("evaluations") / f"{key}.json"
    figures = _read_kept_figures(kept, key) if cache else ()
    if figures and (out is None or _has_figures(out, source, figures)):
        return _record(source, figures, protocol.dataset)

    reals = extract_real_images(dataset, train, test, extractor)
    rounds = []
    album = Album(out) if out is not None else None
    for seed in range(protocol.seed, protocol.seed + seeds):
        images, classes = draw_images(source, test, seed, samples)
        coded = source.class_labels not in (None, (), test.class_labels)
        num_classes = source.num_classes if coded else len(test.class_labels)
        _check_like(test, source.name, images, classes, num_classes)
        sample = _extract_sample(images, classes, extractor, judge, coded=coded)
        captioned = measure_captions(source, judge, test, seed)
        rounds.append([*measure(reals, sample, judge), *captioned])
        if album is not None and seed == protocol.seed:
            album.add(source, seed, sample, reals)
    origin = _describe_origin(source, protocol.seed, seeds, len(sample.images))
    judges = [extractor.description] + (
        [judge.description] if judge not in (None, extractor) else []
    )
    real = f"{test.name} at {'x'.join(map(str, test.images.shape[1:]))}"
    command = "imagemint evaluate RUN --classifier DIR"
    setup = Setup(origin, real, tuple(judges), command, tuple(warnings))
    found = [
        _average_rounds(measured, setup, len(sample.images))
        for measured in zip(*rounds, strict=True)
    ]
    found = [figure for figure in found if np.isfinite(figure.value)]
    if isinstance(source, RunSource) and source.dataset == dataset:
        found += measure_discriminator(source, train, test)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_report(kept, key, found)
    if album is not None and out is not None:
        hint = _ROWS_HINT if source.num_classes else ""
        write_table(out / "table.md", source.name, found, warnings=warnings, hint=hint)
        album.add_figures(source.images_seen if isinstance(source, RunSource) else None, found)
        # Last, because `_has_figures` takes it for a complete folder.
        flush_directory(out)
        write_report(out / "figures.json", source.sha256, found)
    return _record(source, found, protocol.dataset)


@dataclass(frozen=True)
class Judging:
    """The networks of an evaluation.

    Attributes:
        name: name of the judge, for the names of its figures.
        extractor: network whose features are compared.
        judge: network that classifies the images; None if there is none.
    """

    name: str
    extractor: Extractor
    judge: Extractor | None


def evaluate_under_all(
    source: Source,
    judgings: Sequence[Judging],
    protocol: Protocol,
    data: Path | None = None,
    *,
    out: Path | None = None,
    cache: bool = True,
    reading: DataOptions | None = None,
) -> list[EvaluationFigure]:
    """Returns the figures of a source under each of several judges.

    Figures of the first judge have plain names, and their table and pictures are written to
    ``out``. Those of the others have the name of the judge after an ``@``, such as
    ``coverage@residual``; figures that do not depend on a judge, such as ``training_copies``, are
    not repeated.

    Raises:
        CheckpointError: two judges have the same name.
        DatasetError: as for `evaluate`.
    """
    names = [judging.name for judging in judgings]
    if len({*names}) < len(names):
        raise CheckpointError(
            f"two classifiers are called {max(names, key=names.count)}: their figures would have"
            " one name, so rename a directory"
        )
    first, *others = judgings
    options: dict[str, Any] = {"cache": cache, "reading": reading}
    found = evaluate(source, first.extractor, first.judge, protocol, data, out=out, **options)
    for other in others:
        figures = evaluate(source, other.extractor, other.judge, protocol, data, **options)
        found += [
            replace(figure, metric=f"{figure.metric}@{other.name}")
            for figure in figures
            if figure.metric not in _WITHOUT_JUDGE
        ]
    return _record(source, found, protocol.dataset)


_WITHOUT_JUDGE = {"training_copies", "classifier_accuracy", "code_classifier_accuracy"}

_ROWS_HINT = (
    "In `grid.png` each row shows ten images of one class. They should differ from each other as"
    " much as real images of that class do; if not, the generator ignores its latent, which"
    " `within_class_variety` and `class_coverage` measure."
)


def find_doubts(extractor: Extractor, judge: Extractor | None, test: LabelledImages) -> list[str]:
    """Returns the reasons not to trust an evaluation, as sentences."""
    found = []
    weak = {
        each.description: each.accuracy
        for each in (extractor, judge)
        if each is not None and each.accuracy is not None and each.accuracy < WEAK_JUDGE
    }
    found += [
        f"the judge is right about {accuracy:.1%} of its test images only (less than"
        f" {WEAK_JUDGE:.0%}), so its classes and its feature space say little ({description})"
        for description, accuracy in weak.items()
    ]
    if len(test) < STEADY:
        found.append(
            f"{test.name} has {len(test):,} images only (less than {STEADY:,}), so every"
            " figure is noisy; compare it with its reference, and several seeds with each other"
        )
    return found


def _find_other_classes(source: Source, test: LabelledImages) -> list[str]:
    """Returns a warning if the classes of a source are neither codes nor those of the data."""
    ours, theirs = source.class_labels or (), test.class_labels
    if not ours or ours == theirs or "code 0" in ours:
        return []
    warning = (
        f"the classes of the generator, {describe_classes(ours)}, are not those of {test.name},"
        f" {describe_classes(theirs)}, so they are matched with them like codes"
    )
    return [warning]


def _has_figures(out: Path, source: Source, figures: tuple[EvaluationFigure, ...]) -> bool:
    """Returns whether table and pictures in this folder are of this source and these figures.

    The same source may have been measured by another judge or protocol meanwhile.
    """
    try:
        return read_report(out / "figures.json", source.sha256) == figures
    except CheckpointError:
        return False


def _record(
    source: Source, figures: Sequence[EvaluationFigure], dataset: str | None
) -> list[EvaluationFigure]:
    """Returns the figures, and writes those of a run to its ``evaluation.json``.

    Figures against another data set than the run's own are not written: the card of an export
    states those of the model on its task.
    """
    if not isinstance(source, RunSource) or source.run is None:
        return list(figures)
    if is_own_data(dataset, source.dataset):
        write_report(source.run / "evaluation.json", source.sha256, figures)
    return list(figures)


def _get_data_set(judge: Extractor | None) -> str | None:
    return judge.trained_on.rpartition("/")[0] if judge and judge.trained_on else None


def _make_key(digests: list[str], labels: list[tuple[str, ...] | None], numbers: list[int]) -> str:
    """Returns the name of a cached result, which is equal only for equal figures.

    The digests of data do not cover the names of classes, which a file of labels can set.
    """
    parts = [_VERSION, NEIGHBOURS, *digests, *labels, *numbers]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_kept_figures(path: Path, key: str) -> tuple[EvaluationFigure, ...]:
    try:
        return read_report(path, key)
    except CheckpointError:  # damaged, or of another version: measure again
        return ()


def _extract_sample(
    images: NDArray[np.uint8],
    classes: NDArray[np.int64] | None,
    extractor: Extractor,
    judge: Extractor | None,
    *,
    coded: bool,
) -> Sample:
    extracted = extractor.extract(images)
    judged: Extracted | None = None
    if judge is not None:
        judged = extracted if judge is extractor else judge.extract(images)
    return Sample(images, classes, extracted, judged, coded)


def _check_like(
    real: LabelledImages,
    origin: str,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64] | None,
    num_classes: int,
) -> None:
    if len(real) < COMPARABLE:
        raise DatasetError(
            f"{real.name} has {len(real)} images, too few to compare with: at least {COMPARABLE}"
        )
    shape = real.images.shape[1:]
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) < COMPARABLE:
        raise DatasetError(
            f"{origin}: images are {images.dtype} {list(images.shape)}, should be uint8"
            f" {['N', *shape]} with N at least {COMPARABLE}"
        )
    if classes is None:
        return
    fit = classes.shape == (len(images),) and np.isin(classes, range(num_classes)).all()
    if not fit:
        raise DatasetError(
            f"{origin}: class_id must hold {len(images)} classes, each 0 to {num_classes - 1}"
        )


def _describe_origin(source: Source, seed: int, seeds: int, count: int) -> str:
    if isinstance(source, FileSource):
        return source.name
    which = f"seed {seed}" if seeds == 1 else f"seeds {seed} to {seed + seeds - 1}"
    turns = ", classes in turn" if source.num_classes else ""
    if getattr(source, "captions", None) is not None:
        turns = ", captions of the test split in turn"
    return f"{which}, indices 0 to {count - 1}{turns}"


def _average_rounds(rounds: tuple[Measured, ...], setup: Setup, samples: int) -> EvaluationFigure:
    """Returns one figure of several samples: their mean and standard deviation."""
    values = np.array([each.value for each in rounds])
    first = rounds[0]
    several = len(values) > 1
    return EvaluationFigure(
        first.metric,
        float(values.mean()),
        first.how,
        samples,
        first.reference,
        float(values.std(ddof=1)) if several else None,
        f"mean of {len(values)}, deviation" if several else "",
        first.detail,
        setup,
    )
