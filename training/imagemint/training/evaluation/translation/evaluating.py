"""Measures a translator and its baselines on the test split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.subsets import select_rows
from imagemint.training.datasets.translations import (
    MovingImages,
    Pairs,
    UnpairedImages,
    load_pairs,
)
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.evaluation.translation.baselines import Baseline, find_baselines
from imagemint.training.evaluation.translation.figures import (
    Figure,
    Truth,
    compute_mean_figure,
    measure_attributes,
    measure_cycle,
    measure_results,
)
from imagemint.training.evaluation.translation.reports import Column, write_translations
from imagemint.training.evaluation_report import (
    EvaluationFigure,
    Setup,
    is_own_data,
    write_report,
)
from imagemint.training.metrics import peak_signal_noise_ratio, sharpness

Images = NDArray[np.uint8]
Rows = NDArray[np.int64]

_SAMPLES = 2_000
_SEQUENCES = 500  # rolled out
_GLASSES = "accessories"
_COMPARABLE = 6
_WITHOUT_GLASSES = {"attributes_kept": "attributes_kept_without_glasses"}


@dataclass(frozen=True)
class Translator:
    """A trained translator for an evaluation.

    Attributes:
        name: name of the run, for titles.
        sha256: digest of its weights.
        task: key of `datasets.translations.TASKS`.
        dataset: data set of the targets.
        translate: returns the results uint8 [N, H', W', C] of sources uint8 [N, H, W, depth].
        back: the other direction of an unpaired task; None without one.
        how: what computes the results, for protocols.
        size: height and width that targets are scaled to. None: as stored.
        channels: channels that targets are converted to. None: as stored.
        run: directory of its run; None for others.
        close: releases its resources.
    """

    name: str
    sha256: str
    task: str
    dataset: str
    translate: Callable[[Images], Images]
    back: Callable[[Images], Images] | None = None
    how: str = "averaged weights"
    size: int | None = None
    channels: int | None = None
    run: Path | None = None
    close: Callable[[], None] = lambda: None


def evaluate_translator(
    translator: Translator,
    judge: Judge | None,
    data: Path | None,
    *,
    dataset: str | None = None,
    samples: int | None = None,
    out: Path | None = None,
) -> list[EvaluationFigure]:
    """Returns the figures of a translator and of the baselines.

    Those of a run against its own data set, without the baselines, are also written to its
    ``evaluation.json``.

    Args:
        translator: the translator to measure.
        judge: classifier for features and attributes; None to omit figures that need one.
        data: folder of the data sets.
        dataset: data set of the targets. Default: that of the translator.
        samples: test sources. Default: 2,000, or all if there are fewer.
        out: folder for table and pictures; None writes none.

    Raises:
        DatasetError: the data are missing.
    """
    run = translator.run
    measured = replace(translator, dataset=dataset or translator.dataset)
    figures = evaluate_translation(measured, judge, data, samples=samples, out=out)
    if run is not None and is_own_data(dataset, translator.dataset):
        own = [figure for figure in figures if "@" not in figure.metric]
        write_report(run / "evaluation.json", translator.sha256, own)
    return figures


def evaluate_translation(
    translator: Translator,
    judge: Judge | None,
    data: Path | None = None,
    *,
    samples: int | None = None,
    out: Path | None = None,
) -> list[EvaluationFigure]:
    """Returns the figures of a translator and, with ``@`` and their name, of the baselines.

    Args:
        translator: the translator to measure.
        judge: classifier for features and attributes; None to omit figures that need one.
        data: folder of the data sets.
        samples: number of test sources, from row 0 on. Default: 2,000, or all if there are fewer.
        out: folder for ``figures.json``, ``table.md`` and pictures; None to write none.

    Raises:
        DatasetError: data are missing, or too few.
    """
    train, test = (
        load_pairs(
            translator.task,
            split,
            data,
            dataset=translator.dataset,
            size=translator.size,
            channels=translator.channels,
        )
        for split in ("train", "test")
    )
    if judge is not None and not judge.takes(test.target_shape):
        raise DatasetError(
            f"the judge does not accept images of {list(test.target_shape)}; name another"
            " --classifier, or none"
        )
    count = min(samples or _SAMPLES, _count_comparable(test), _count_comparable(train))
    if count < _COMPARABLE:
        raise DatasetError(
            f"{count} images of {test.name} can be compared, and at least {_COMPARABLE} are needed"
        )
    rows = np.arange(count)
    found: list[EvaluationFigure] = []
    columns: list[Column] = []
    for name, how, translate in _list_candidates(translator, find_baselines(train, test)):
        setup = _describe_setup(how, f"{test.name}, rows 0 to {count - 1}", judge)
        results = translate(test.make_examples(rows)[0], rows)
        figures = [
            *_measure(results, test, train, rows, judge),
            *(_measure_way_back(translator, test, judge) if not name else ()),
            *_roll_out(translate, test),
        ]
        found += [_to_report(figure, name, setup, count) for figure in figures]
        columns.append(Column(name or "result", results))
    if test.form.mask:
        found += _remove_glasses(translator, train, data, judge)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_translations(out, translator.name, test, columns, found)
        write_report(out / "figures.json", translator.sha256, found)
    return found


def _count_comparable(pairs: Pairs) -> int:
    """Returns how many results can be compared with as many different targets."""
    if isinstance(pairs, UnpairedImages) and not pairs.has_truth:
        return min(len(pairs), len(pairs.targets))
    return len(pairs)


def _list_candidates(
    translator: Translator, baselines: tuple[Baseline, ...]
) -> Iterator[tuple[str, str, Callable[[Images, Rows], Images]]]:
    """Yields the translator, without a name, and the baselines."""
    yield "", translator.how, lambda x, _: translator.translate(x)
    for baseline in baselines:
        yield baseline.name, f"baseline {baseline.name}: {baseline.how}", baseline.translate


def _measure(
    results: Images, test: Pairs, train: Pairs, rows: Rows, judge: Judge | None
) -> Iterator[Figure]:
    sources, images = test.make_examples(rows)
    others = (
        train.targets.images[: len(rows)]
        if isinstance(train, UnpairedImages)
        else train.make_examples(rows)[1]
    )
    if isinstance(test, UnpairedImages) and not test.has_truth:
        labels = select_rows(test.targets, rows)
        truth = Truth(images, others, labels, is_paired=False)
    else:
        removes = _GLASSES if isinstance(test, UnpairedImages) else ""
        truth = Truth(images, others, select_rows(test.data, rows), removes)
    holes = sources[..., -1] > 127 if test.form.mask else None  # noqa: PLR2004 - the middle
    yield from measure_results(results, truth, judge, holes)


def _measure_way_back(translator: Translator, test: Pairs, judge: Judge | None) -> Iterator[Figure]:
    """Yields the cycle error, and how often the way back adds glasses."""
    if translator.back is None or not isinstance(test, UnpairedImages):
        return
    sources, _ = test.make_examples(np.arange(min(len(test), _SAMPLES)))
    yield measure_cycle(sources, translator.back(translator.translate(sources)))
    if judge is None or not test.has_truth:
        return
    results = translator.back(test.targets.images[:_SAMPLES])
    predicted = judge.predict_attributes(results).get(_GLASSES)
    if predicted is not None:
        real = judge.predict_attributes(sources)[_GLASSES]
        yield compute_mean_figure(
            "glasses_put_on",
            (predicted != 0).astype(np.float64),
            "share of the results of the way back in which the judge sees glasses; reference: the"
            " judge on real images with them",
            float((real != 0).mean()),
        )


def _roll_out(translate: Callable[[Images, Rows], Images], test: Pairs) -> Iterator[Figure]:
    """Yields the quality of ten predictions, each from the previous predictions."""
    if not isinstance(test, MovingImages):
        return
    rows = np.arange(min(len(test), _SEQUENCES))
    truth = test.roll_out(rows)
    frames = predict(translate, test.make_examples(rows)[0], truth.shape[1], test.form.channels)
    for step in range(truth.shape[1]):
        yield compute_mean_figure(
            f"psnr_step_{step + 1}",
            peak_signal_noise_ratio(frames[:, step], truth[:, step]),
            "dB, of that frame after the source, predicted from predictions",
        )
    last = sharpness(frames[:, -1]).mean() / sharpness(truth[:, -1]).mean()
    yield Figure(
        f"sharpness_step_{truth.shape[1]}",
        float(last),
        "mean difference of neighbouring pixels of that frame, as a multiple of the true one's",
        reference=1.0,
        count=len(rows),
    )


def predict(
    translate: Callable[[Images, Rows], Images], sources: Images, steps: int, channels: int
) -> Images:
    """Returns the frames after each source, uint8 [N, steps, H, W, C].

    Each prediction is the newest frame of the next source.

    Args:
        translate: predicts one frame.
        sources: uint8 [N, H, W, frames * C].
        steps: number of frames.
        channels: channels of a frame, C.
    """
    rows, found = np.arange(len(sources)), []
    for _ in range(steps):
        found.append(translate(sources, rows))
        sources = np.concatenate([sources[..., channels:], found[-1]], axis=3)
    return np.stack(found, axis=1)


def _remove_glasses(
    translator: Translator, train: Pairs, data: Path | None, judge: Judge | None
) -> list[EvaluationFigure]:
    """Returns images of people whose glasses were hidden and filled, with the baselines."""
    if translator.dataset != "avatars64":
        return []
    test = load_pairs("glasses-mask", "test", data)
    rows = np.arange(len(test))
    sources, images = test.make_examples(rows)
    holes = sources[..., -1] > 127  # noqa: PLR2004 - the middle
    truth = Truth(images, images, test.data, _GLASSES)
    found = []
    for name, how, translate in _list_candidates(translator, find_baselines(train, test)):
        results = translate(sources, rows)
        figures = [
            compute_mean_figure(
                "psnr_where_glasses_were",
                peak_signal_noise_ratio(results, images, holes),
                "dB, of the pixels below the mask, against the same person without glasses",
            )
        ]
        if judge is not None:
            figures += [
                replace(attribute, metric=_WITHOUT_GLASSES.get(attribute.metric, attribute.metric))
                for attribute in measure_attributes(results, truth, judge)
            ]
        setup = _describe_setup(how, f"{test.name}, all {len(rows)} rows", judge)
        found += [_to_report(figure, name, setup, len(rows)) for figure in figures]
    return found


def _describe_setup(how: str, data: str, judge: Judge | None) -> Setup:
    judges = () if judge is None else (judge.description,)
    return Setup(how, data, judges, "imagemint evaluate RUN --classifier DIR")


def _to_report(figure: Figure, name: str, setup: Setup, count: int) -> EvaluationFigure:
    """Returns a figure with how it was measured."""
    return EvaluationFigure(
        f"{figure.metric}@{name}" if name else figure.metric,
        figure.value,
        figure.how,
        figure.count or count,
        figure.reference,
        figure.error,
        "" if figure.error is None else "standard error",
        figure.detail,
        setup,
    )
