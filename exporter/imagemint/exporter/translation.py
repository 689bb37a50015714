"""Exports translators, which convert images to images."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from imagemint.engine.backend import Backend
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import Bundle
from imagemint.engine.spec import ModelSpec
from imagemint.exporter import parity
from imagemint.exporter.describe import Description, build_translation_manifest
from imagemint.exporter.draft import Draft, GraphOptions, publish_draft
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import export_module, to_levels
from imagemint.exporter.parity import Original, Tolerance
from imagemint.exporter.publish import choose_version
from imagemint.exporter.samples import tile_images
from imagemint.training.loop.examples import render_sources
from imagemint.training.translators import TrainedTranslator

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import SigningKey

_Pixels = npt.NDArray[np.uint8]

_EXAMPLE_ROWS = 2  # the exporter treats a batch of one as a constant
_OTHER_SIZES = 16  # number of compared sources of another size than in training
_ROWS, _TRIPLES = 10, 4  # width of samples.png


class _Served(nn.Module):
    """The module that is exported: source uint8 [N, H, W, S] in, image uint8 out."""

    def __init__(self, translator: nn.Module) -> None:
        super().__init__()
        self.translator = translator

    def forward(self, source: Tensor) -> Tensor:
        x = source.to(torch.float32).permute(0, 3, 1, 2)
        return to_levels(self.translator(x / 127.5 - 1))


def export_translator(
    trained: TrainedTranslator,
    *,
    name: str,
    repository: Path,
    title: str | None = None,
    license: str | None = None,  # noqa: A002 - the word of the manifest
    version: int | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
    graph_options: GraphOptions = GraphOptions(),  # noqa: B008 - frozen
    signing_key: "SigningKey | None" = None,
) -> Bundle:
    """Writes a bundle, compares it with PyTorch, and returns it as the server reads it.

    The sources of the comparison are the examples of the run, moved by random distances; of a free
    size also at a second size.

    Args:
        trained: the translator.
        name: model name, and its folder in the repository.
        repository: the model repository; made if missing.
        title: one line for people. None: task, data set and size.
        license: licence of weights and samples. None: that of the run.
        version: a version that does not exist yet. None: one more than the last.
        tolerance: largest accepted difference from PyTorch.
        graph_options: target device; translators have no variants.
        signing_key: signs the bundle. None: it is not signed.

    Raises:
        ExportError: the bundle cannot be written. The repository is unchanged.
    """
    if graph_options.variants:
        raise ExportError("variants are compared by the images of serials; a translator has none")
    if graph_options.critic is not None:
        raise ExportError("a critic judges the images of serials; a translator has none")
    described = Description(
        name=name,
        title=_format_title(trained) if title is None else title,
        license=trained.license if license is None else license,
        thresholds=None,
    )
    manifest = build_translation_manifest(trained, described)
    version = choose_version(repository, name, version)
    draft = Draft(
        build_translation_graph(trained),
        manifest,
        Original("PyTorch", partial(run_translator, trained)),
        make_comparisons(trained),
        partial(write_translations, trained),
    )
    return publish_draft(
        draft, repository, version, tolerance, graph_options, signing_key=signing_key
    )


def build_translation_graph(trained: TrainedTranslator) -> onnx.ModelProto:
    """Returns the ONNX model of a translator, stripped and without a manifest.

    Height and width of the source are dynamic where the size is free.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    height, width, depth = trained.form.shape
    width += trained.free_step  # the exporter would treat equal sides as the same side
    source = torch.zeros(_EXAMPLE_ROWS, height, width, depth, dtype=torch.uint8)
    return export_module(
        _Served(trained.module),
        {"source": source},
        ["image"],
        what="the translator",
        free_axes=(1, 2) if trained.free_step else (),
    )


def make_comparisons(trained: TrainedTranslator) -> list[Batch]:
    """Returns 1,000 sources: the examples, moved by random distances; for a free size 16 more.

    These 16 have the largest size of one pass, and consist of several examples side by side.
    """
    examples = trained.examples.source
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    count = parity.SAMPLES
    moves = rng.integers(0, examples.shape[1:3], size=(count, 2))
    moved = [np.roll(examples[row % len(examples)], move, (0, 1)) for row, move in enumerate(moves)]
    batches = [Batch(source=np.stack(moved))]
    if trained.free_step:
        side, (height, width) = trained.max_side, examples.shape[1:3]
        repeats = (1, -(-side // height), -(-side // width), 1)
        wide = np.tile(examples[: min(_OTHER_SIZES, count)], repeats)
        batches.append(
            Batch(source=np.ascontiguousarray(wide[:, :side, : side - trained.free_step]))
        )
    return batches


def run_translator(trained: TrainedTranslator, batch: Batch) -> _Pixels:
    """Returns PyTorch's images uint8 [N, H', W', C] of the sources of a batch, rounded here."""
    assert batch.source is not None  # noqa: S101 - a translator takes sources
    found = []
    with torch.inference_mode():
        for start in range(0, len(batch), parity.BATCH_SIZES[-1]):
            part = batch.source[start : start + parity.BATCH_SIZES[-1]]
            x = part.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
            found.append(trained.module(torch.from_numpy(np.ascontiguousarray(x))).numpy())
    return parity.round_images(np.concatenate(found))


def write_translations(
    trained: TrainedTranslator, path: Path, backend: Backend, spec: ModelSpec, version: int
) -> None:
    """Writes source, result and truth of the first examples side by side, four such in a row.

    The sources are of the test split, at even distances: not selected.
    """
    count = min(_ROWS * _TRIPLES, len(trained.examples.source))
    source, truth = trained.examples.source[:count], trained.examples.target[:count]
    result = backend.run(Batch(source=source))
    sources = render_sources(source, trained.form, truth.shape[1:])
    images = np.stack([sources, result, truth], axis=1).reshape(-1, *truth.shape[1:])
    sheet = tile_images(images, 3 * min(_TRIPLES, count))
    png_info = PngInfo()
    png_info.add_text("Model", f"{spec.name}@{version}: source, result, truth")
    png_info.add_text("DigitalSourceType", "trainedAlgorithmicMedia")
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    picture.save(path, format="PNG", optimize=True, pnginfo=png_info)


def _format_title(trained: TrainedTranslator) -> str:
    height, width = (side * trained.form.scale for side in trained.form.shape[:2])
    return f"{trained.dataset}, trained at {width}x{height}"
