"""Adds variants to a bundle: the same generator in lower precision.

A variant is written only if its quality matches the reference within seed-to-seed noise. The
fastest form is tried first; if its images fall short, the next one is tried. Two things are
compared with model.onnx: the pixels, and the figures of the judge.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.spec import ModelSpec
from imagemint.exporter.errors import ExportError
from imagemint.exporter.files import write_graph
from imagemint.exporter.parity import check_batch_independence
from imagemint.exporter.precision import (
    Feed,
    convert_to_fp16,
    describe_quantizer,
    has_sums,
    quantize_to_int8,
)
from imagemint.exporter.subpixel import replace_transposed_convolutions
from imagemint.training.evaluation import Compared
from imagemint.training.evaluation.sources import BundleSource, Source
from imagemint.v1 import manifest_pb2 as pb

_log = logging.getLogger(__name__)

_CALIBRATION_SEED = 2**63  # far from the seeds that users choose
_CALIBRATION_IMAGES = 1_024
_BATCH = 32
# The fastest first. The projection of the latents loses the most precision in 8 bits.
_INT8_KINDS = (("Gemm", "Conv", "MatMul"), ("Conv", "MatMul"), ("Conv",))

Compare = Callable[[Source, Source], Compared]
"""Compares the quality of the second source with that of the first."""


@dataclass(frozen=True)
class Limits:
    """Largest accepted differences from the pixels of model.onnx, in levels of 255."""

    mean: float
    maximum: int
    over_one_share: float
    """Share of values that may differ by more than one level."""


# The largest difference of int8 is reported but not limited: among millions of values, the edge of
# some stroke always moves by a pixel, and edges are black on white.
LIMITS = {"fp16": Limits(0.1, 2, 0.001), "int8": Limits(1.0, 255, 0.15)}
_PRECISIONS = {"fp16": pb.PRECISION_FP16, "int8": pb.PRECISION_INT8}
_OTHER_FLOATS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
_TARGETS = {"fp16": pb.TARGET_DEVICE_CUDA, "int8": pb.TARGET_DEVICE_CPU}


def add_variants(
    directory: Path,
    model: onnx.ModelProto,
    manifest: pb.BundleManifest,
    names: Sequence[str],
    compare: Compare,
) -> None:
    """Writes variants beside model.onnx and declares them in the manifest with their figures.

    Args:
        directory: the bundle, complete except for the variants.
        model: the exported graph, before its layout for a device.
        manifest: the manifest of the bundle; it is changed.
        names: `int8`, `fp16`.
        compare: compares the quality of two sources.

    Raises:
        ExportError: a variant falls short in every form, or the graph has no such form. The message
            gives the figures or the reason.
    """
    for name in names:
        reason = "no operator of model.onnx has a form in this precision"
        for graph, method in _make_forms(name, model, ModelSpec.of(manifest)):
            manifest.variants.append(_write_variant(directory, name, graph, method, manifest))
            write_graph(directory, "model.onnx", _read_reference(directory), manifest)
            variant = manifest.variants[-1]
            faults = _measure(directory, variant, LIMITS[name], compare)
            if not faults:
                break
            reason = "; ".join(faults)
            _log.warning("%s (%s) falls short: %s", name, method, reason)
            del manifest.variants[-1]
        else:
            raise ExportError(f"no {name} variant: {reason}")


def _make_forms(
    name: str, model: onnx.ModelProto, spec: ModelSpec
) -> Iterator[tuple[onnx.ModelProto, str]]:
    """Yields the forms of a variant, the fastest first, with a description of the method."""
    if name == "fp16":
        if not has_sums(model.graph):
            return
        yield (
            convert_to_fp16(model),
            "onnxruntime.transformers float16; everything after the last sum in fp32",
        )
        return
    if any(tensor.data_type in _OTHER_FLOATS for tensor in model.graph.initializer):
        raise ExportError("no int8 variant: it is made of float32, and the file has other floats")
    plain = replace_transposed_convolutions(model)
    feeds = list(_draw_calibration(spec))
    present = {node.op_type for node in plain.graph.node}
    tried: set[frozenset[str]] = set()
    for kinds in _INT8_KINDS:
        selected = frozenset(kinds) & present
        if selected and selected not in tried:
            tried.add(selected)
            names = ", ".join(kind for kind in kinds if kind in selected)
            method = (
                f"{describe_quantizer()}, QDQ, static, calibrated by minimum and maximum of"
                f" {_CALIBRATION_IMAGES:,} serials of seed {_CALIBRATION_SEED}"
                f"{', classes in turn' if spec.conditional else ''}; in 8 bits: {names}"
            )
            yield quantize_to_int8(plain, feeds, sorted(selected)), method


def _draw_calibration(spec: ModelSpec) -> Iterator[Feed]:
    """Yields inputs for calibration: every class, example captions, psi of every strength."""
    for start in range(0, _CALIBRATION_IMAGES, _BATCH):
        feed = draw_batch(spec, _CALIBRATION_SEED, start, _BATCH).make_feed(spec.inputs)
        indices = np.arange(start, start + _BATCH, dtype=np.int64)[:, np.newaxis]
        if spec.conditional:
            feed["class_id"] = indices % spec.num_classes
        if spec.takes_psi and spec.truncation is not None:
            low, high = spec.truncation.minimum, spec.truncation.maximum
            strength = low + (high - low) * indices / (_CALIBRATION_IMAGES - 1)
            feed["truncation"] = strength.astype(np.float32)
        yield feed


def _write_variant(
    directory: Path, name: str, graph: onnx.ModelProto, method: str, manifest: pb.BundleManifest
) -> pb.Variant:
    """Writes the file of a variant. Its manifest lacks the figures, which belong to model.onnx."""
    own = pb.BundleManifest()
    own.CopyFrom(manifest)
    own.precision = _PRECISIONS[name]
    for field in ("parity", "evaluations", "variants", "critic"):
        own.ClearField(field)  # these figures belong to the reference
    file = f"{name}.onnx"
    sha256 = write_graph(directory, file, graph, own)
    return pb.Variant(
        name=name,
        file=file,
        sha256=sha256,
        precision=_PRECISIONS[name],
        target=_TARGETS[name],
        method=method,
    )


def _read_reference(directory: Path) -> onnx.ModelProto:
    return onnx.load_model(directory / "model.onnx")


def _measure(directory: Path, variant: pb.Variant, limits: Limits, compare: Compare) -> list[str]:
    """Fills in the figures of a variant, and returns those that are not good enough."""
    device = torch.device("cpu")
    bundle = read_bundle(directory)
    backend = OnnxBackend(bundle, device="cpu", variant=variant.name)
    check_batch_independence(bundle.spec, backend)
    model, other = (BundleSource(directory, device, each) for each in ("reference", variant.name))
    found = compare(model, other)
    model.close()
    other.close()
    difference = found.difference
    variant.difference.CopyFrom(
        pb.PixelDifference(
            images=difference.images,
            mean=difference.mean,
            maximum=difference.maximum,
            differing_share=difference.differing_share,
            over_one_share=difference.over_one_share,
            tolerance_mean=limits.mean,
            tolerance_maximum=limits.maximum,
            tolerance_over_one_share=limits.over_one_share,
            backend=backend.description,
        )
    )
    backend.close()
    del variant.quality[:]
    variant.quality.extend(
        pb.QualityComparison(
            metric=figure.metric,
            value=figure.value,
            model=figure.model,
            noise=figure.noise,
            protocol=found.protocol,
            sample_size=found.samples,
            seeds=found.seeds,
        )
        for figure in found.figures
    )
    return list(_find_faults(found, limits))


def _find_faults(found: Compared, limits: Limits) -> Iterator[str]:
    difference = found.difference
    for what, value, limit in (
        ("mean difference", difference.mean, limits.mean),
        ("largest difference", difference.maximum, limits.maximum),
        ("share over one level", difference.over_one_share, limits.over_one_share),
    ):
        if value > limit:
            yield f"{what} {value:.4g}, allowed is {limit:g}"
    for figure in found.figures:
        if figure.loss > figure.noise:
            yield (
                f"{figure.metric} {figure.value:.4f}, where model.onnx has {figure.model:.4f} with"
                f" a deviation of {figure.noise:.4f} over its seeds"
            )
