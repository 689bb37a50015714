"""Opens the translator that `imagemint evaluate` measures: a run, a bundle, or a served model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.evaluation.sources import Source, open_address
from imagemint.training.evaluation.translation.evaluating import Translator
from imagemint.training.loop.examples import translate_images
from imagemint.training.loop.resume import read_settings
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.translators import WAY_BACK, is_translator, read_translator

Images = NDArray[np.uint8]

_BATCH = 64
_PAIRS = re.compile(r"(?P<task>\S+) of (?P<dataset>.+)/[^/, ]+")


class ServedTranslator(Source, Protocol):
    """A served model that takes a source; `imagemint.client.sources` has the only one.

    Attributes:
        trained_on: the pairs that it learnt from, such as ``edges of avatars64/train``.
        source_size: height and width of its sources; None for a free size.
        image_shape: height, width and channels of its results, for a free size the largest.
    """

    trained_on: str
    source_size: tuple[int, int] | None
    image_shape: tuple[int, int, int]

    def translate(self, sources: Images) -> Images:
        """Returns the results uint8 [N, H', W', C] of sources uint8 [N, H, W, depth]."""


class _Pairs(NamedTuple):
    """What a translator learnt from."""

    task: str
    dataset: str


def open_translator(
    place: str,
    device: torch.device,
    plugs: Mapping[str, Callable[[str], Source]] | None = None,
    *,
    variant: str = "reference",
) -> Translator | None:
    """Returns the translator that an argument names; None if it names something else.

    Args:
        place: a run, a checkpoint, a bundle, or an address such as ``grpc://localhost:8001/sketch``.
        device: where to compute, for those that compute in this process.
        plugs: sources by scheme; None for the installed ones.
        variant: name of the graph of a bundle.

    Raises:
        CheckpointError: a damaged run.
        DatasetError: it does not say which pairs it learnt from, or learnt the way back.
        ImagemintError: the engine refuses the bundle, or the call to the server failed.
    """
    if "://" in place:
        return _open_served(open_address(place, plugs))
    path = Path(place)
    if (path / "model.onnx").is_file():
        return _open_bundle(path, device, variant)
    if (path / "checkpoints").is_dir() or (path / "checkpoint.json").is_file():
        return _open_run(path, device) if is_translator(path) else None
    return None


def _open_run(run: Path, device: torch.device) -> Translator:
    trained = read_translator(run)
    is_run = not (run / "checkpoint.json").is_file()
    settings = read_settings(run if is_run else run.parent.parent)
    return Translator(
        name=f"run of recipe {trained.recipe}, {trained.images_seen:,} images",
        sha256=trained.weights_sha256,
        task=trained.task,
        dataset=settings.get("dataset") or TRANSLATION_RECIPES[trained.recipe].dataset,
        translate=partial(translate_images, trained.module.to(device)),
        how="averaged weights",
        back=_read_way_back(run, device),
        size=settings.get("size") if trained.free_step else _find_side(trained.target_shape),
        channels=trained.target_shape[2],
        run=run if is_run else None,
    )


def _read_way_back(run: Path, device: torch.device) -> Callable[[Images], Images] | None:
    """Returns the other direction of a run that learnt both; None if it learnt one."""
    try:
        module = read_translator(run, "back").module
    except CheckpointError:
        return None
    return partial(translate_images, module.to(device))


def _open_bundle(directory: Path, device: torch.device, variant: str) -> Translator | None:
    # Imported here, so that measuring a run does not need onnxruntime.
    from imagemint.engine.batch import draw_batch  # noqa: PLC0415 - see above
    from imagemint.engine.bundle import read_bundle  # noqa: PLC0415 - see above
    from imagemint.engine.onnx.backend import OnnxBackend  # noqa: PLC0415 - see above

    bundle = read_bundle(directory)
    spec, source = bundle.spec, bundle.spec.source
    if source is None:
        return None
    name = f"bundle {spec.name}@{bundle.version}"
    pairs = _parse_pairs(bundle.manifest.training.dataset, name)
    backend = OnnxBackend(
        bundle, device=device.type, intra_op_threads=torch.get_num_threads(), variant=variant
    )

    def translate(sources: Images) -> Images:
        height, width = sources.shape[1:3]
        if source.is_free and (height > source.height or width > source.width):
            raise DatasetError(
                f"{name} takes sources of up to {source.width}x{source.height} pixels in one pass,"
                f" and these have {width}x{height}; a server translates them in tiles: measure"
                f" grpc://HOST:PORT/{spec.name}"
            )
        parts = []
        for start in range(0, len(sources), _BATCH):
            part = sources[start : start + _BATCH]
            batch = draw_batch(spec, 0, start, len(part), (height, width))
            parts.append(backend.run(replace(batch, source=part)))
        return np.concatenate(parts)

    ran = backend.variant
    return Translator(
        name=f"{name}, {ran.name}",
        sha256=ran.sha256,
        task=pairs.task,
        dataset=pairs.dataset,
        translate=translate,
        how=f"{name}, {ran.name}",
        size=None if source.is_free else _find_side((spec.height, spec.width)),
        channels=spec.channels,
        close=backend.close,
    )


def _open_served(source: Source) -> Translator | None:
    if not _is_translator(source):
        source.close()
        return None
    try:
        pairs = _parse_pairs(source.trained_on, source.name)
    except DatasetError:
        source.close()
        raise
    return Translator(
        name=source.name,
        sha256=source.sha256,
        task=pairs.task,
        dataset=pairs.dataset,
        translate=source.translate,
        how=source.name,
        size=None if source.source_size is None else _find_side(source.image_shape),
        channels=source.image_shape[2],
        close=source.close,
    )


def _is_translator(source: Source) -> TypeGuard[ServedTranslator]:
    return bool(getattr(source, "takes_source", False))


def _parse_pairs(trained_on: str, name: str) -> _Pairs:
    """Returns task and data set of ``edges of avatars64/train``.

    Raises:
        DatasetError: the text is another one.
    """
    if trained_on.endswith(WAY_BACK):
        raise DatasetError(
            f"{name} is the backward direction of a run; measure the run, which has both directions"
        )
    found = _PAIRS.fullmatch(trained_on)
    if found is None:
        reason = f"it was trained on {trained_on!r}" if trained_on else "it does not say"
        raise DatasetError(
            f"{name}: the pairs to measure it with are unknown, because {reason}; expected"
            " 'TASK of DATA SET/SPLIT', as exports of `imagemint train` have it"
        )
    return _Pairs(found["task"], found["dataset"])


def _find_side(shape: tuple[int, ...]) -> int | None:
    """Returns the size that targets are scaled to; None if they are as stored."""
    return shape[0] if shape[0] == shape[1] else None


def open_judge(classifiers: list[Path], device: torch.device) -> Judge | None:
    """Returns the classifier that judges translations; None if none is named.

    Raises:
        DatasetError: several are named.
    """
    if len(classifiers) > 1:
        raise DatasetError("a translator is measured with exactly one --classifier")
    return Judge(classifiers[0], device) if classifiers else None
