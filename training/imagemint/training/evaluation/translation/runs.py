"""Measuring the run of a translator: what `imagemint evaluate RUN` does with one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.evaluation.translation.evaluating import (
    Translator,
    evaluate_translation,
)
from imagemint.training.evaluation_report import EvaluationFigure, write_report
from imagemint.training.loop.examples import Images, translate_images
from imagemint.training.loop.resume import read_settings
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.translators import is_translator, read_translator


def is_translator_run(place: str) -> bool:
    """Whether this is a run of a translator, or a checkpoint of one."""
    path = Path(place)
    if not (path / "checkpoints").is_dir() and not (path / "checkpoint.json").is_file():
        return False
    return is_translator(path)


def evaluate_translator_run(
    run: Path,
    judge: Judge | None,
    data: Path | None,
    device: torch.device,
    *,
    samples: int | None = None,
    out: Path | None = None,
) -> list[EvaluationFigure]:
    """Returns the figures of a run's newest checkpoint, or of one checkpoint, and of baselines.

    Those of a run, without the baselines, are also written to its ``evaluation.json``.

    Args:
        run: its directory, or that of a checkpoint in it.
        judge: classifier for features and attributes; None leaves out what needs one.
        data: folder of the data sets.
        device: where to compute.
        samples: test sources. Default: 2,000, or all where there are fewer.
        out: folder for table and pictures. Default: ``evaluation/`` of a run.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
        DatasetError: the data are missing.
    """
    trained = read_translator(run)
    is_run = not (run / "checkpoint.json").is_file()
    settings = read_settings(run if is_run else run.parent.parent)
    translator = Translator(
        name=f"run of recipe {trained.recipe}, {trained.images_seen:,} images",
        sha256=trained.weights_sha256,
        task=trained.task,
        dataset=settings.get("dataset") or TRANSLATION_RECIPES[trained.recipe].dataset,
        translate=partial(translate_images, trained.module.to(device)),
        back=_read_way_back(run, device),
    )
    if out is None and is_run:
        out = run / "evaluation"
    figures = evaluate_translation(
        translator, judge, data, samples=samples, size=settings.get("size"), out=out
    )
    if is_run:
        own = [each for each in figures if "@" not in each.metric]
        write_report(run / "evaluation.json", translator.sha256, own)
    return figures


def _read_way_back(run: Path, device: torch.device) -> Callable[[Images], Images] | None:
    """Returns the other direction of a run that learnt both; None if it learnt one."""
    try:
        module = read_translator(run, "back").module
    except CheckpointError:
        return None
    return partial(translate_images, module.to(device))


def open_judge(classifiers: list[Path], device: torch.device) -> Judge | None:
    """Returns the classifier that judges translations; None if none is named.

    Raises:
        DatasetError: several are named.
    """
    if len(classifiers) > 1:
        raise DatasetError("a translator is measured under one --classifier")
    return Judge(classifiers[0], device) if classifiers else None
