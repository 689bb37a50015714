"""Rebuilds a generator that another program exported as the graph of a bundle."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine import BackendFailed, BundleRefused, Distribution, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.session import create_cpu_session
from imagemint.exporter.adoption.batch_axis import free_batch_axis
from imagemint.exporter.adoption.conversion import get_operator_set
from imagemint.exporter.adoption.foreign_model import ForeignModel
from imagemint.exporter.adoption.model_file import ModelFile, read_model
from imagemint.exporter.adoption.operators import drop_unused_nodes, prepare_operators
from imagemint.exporter.adoption.original import (
    LEVELS,
    OriginalModel,
    compute_constant_shape,
    get_latent_sides,
)
from imagemint.exporter.adoption.signature import Form, Input, Signature, read_signature
from imagemint.exporter.adoption.value_range import check_declared_range, check_value_range
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import OPSET
from imagemint.exporter.parity import Original
from imagemint.exporter.surgery import BATCH_AXIS, fold_batch_norm, strip

_PREFIX = "adopted."
_IR_VERSION = 8  # the oldest of our operator set; before 4, weights had to be inputs
_BATCHES = (1, 3)  # two sizes show whether a graph takes any size


@dataclass(frozen=True)
class AdoptedModel:
    """A foreign generator as the graph of a bundle.

    Attributes:
        model: the graph, with the inputs `z`, `class_id` and `truncation` and the output `image` of
            every bundle.
        original: the unchanged file.
        z_dim: length of a latent.
        shape: height, width and channels of an image.
        sha256: SHA-256 of the file and of its files of weights.
        takes_psi: whether it has the input `truncation`.
        class_labels: label texts by index.
        distribution: distribution of the elements of a latent.
        dataset: data set of its training; empty if unknown.
        warnings: suspicious properties that are no errors.
    """

    model: onnx.ModelProto
    original: Original
    z_dim: int
    shape: tuple[int, int, int]
    sha256: str
    takes_psi: bool
    class_labels: tuple[str, ...]
    distribution: Distribution
    dataset: str
    warnings: tuple[str, ...] = ()


def adopt(foreign: ForeignModel) -> AdoptedModel:
    """Reads a foreign graph and builds the graph of a bundle around it.

    Scaling, clamping, rounding (half to even) and the transpose follow its output. Older operator
    sets are converted. A graph for one batch size is changed to take any size.

    Raises:
        ExportError: the file is not an ONNX model, or not the described generator; the message
            states what was found, and which option helps.
    """
    check_declared_range(foreign.value_range)
    file = read_model(foreign.path)
    model = file.model
    signature = read_signature(model.graph, foreign)
    drop_unused_nodes(model.graph, signature.output)
    prepare_operators(model.graph, foreign.path)
    original = OriginalModel(file.written, signature, foreign)
    warnings = []
    if foreign.check_value_range:
        warnings = check_value_range(original.trial, foreign.value_range)
    if file.is_converted:
        _check_conversion(file, signature, original, foreign)
    ours = _make_graph(model, signature, original, foreign)
    if original.batch is not None:
        _check_any_batch(ours, signature, original, foreign)
    return AdoptedModel(
        model=ours,
        original=Original(foreign.path.name, original.compute_pixels),
        z_dim=signature.z_dim,
        shape=original.shape,
        sha256=file.sha256,
        takes_psi=signature.truncation is not None,
        class_labels=foreign.class_labels,
        distribution=foreign.distribution,
        dataset=foreign.dataset,
        warnings=tuple(warnings),
    )


def _check_conversion(
    file: ModelFile, signature: Signature, original: OriginalModel, foreign: ForeignModel
) -> None:
    """Compares the model with the file, whose operator set is older."""
    converted = OriginalModel(file.model, signature, foreign)
    low, high = foreign.value_range
    levels = float(np.abs(converted.trial - original.trial).max()) / (high - low) * float(LEVELS)
    if levels > 1:
        raise ExportError(
            f"{foreign.path} has operator set {get_operator_set(file.written)}, and its conversion"
            f" to {OPSET} changes images by up to {levels:.0f} levels of 255. Export it with"
            f" operator set {OPSET} or a later one"
        )


def _check_any_batch(
    model: onnx.ModelProto, signature: Signature, original: OriginalModel, foreign: ForeignModel
) -> None:
    """Compares a graph that was changed to take any batch size with the file, for two sizes."""
    refusal = ExportError(
        f"{foreign.path} is made for batches of {original.batch}."
        " Export it with a dynamic first axis"
    )
    rows = max(_BATCHES)
    z = draw_latents(0, 0, rows, signature.z_dim, distribution=foreign.distribution)
    labels = len(foreign.class_labels)
    classes = np.arange(rows) % labels if labels else None
    psi = None if signature.truncation is None else np.ones(rows, np.float32)
    batch = Batch(z, classes, truncation=psi)
    expected = original.compute_pixels(batch).astype(np.int16)
    try:
        session = create_cpu_session(model.SerializeToString(), 1, foreign.path)
        for size in _BATCHES:
            feed: dict[str, npt.NDArray[np.generic]] = {"z": z[:size]}
            if classes is not None:
                feed["class_id"] = classes[:size, np.newaxis]
            if psi is not None:
                feed["truncation"] = psi[:size, np.newaxis]
            found = session.run(feed)
            if found.shape != expected[:size].shape or np.abs(found - expected[:size]).max() > 1:
                raise refusal
    except (BackendFailed, BundleRefused) as error:
        raise refusal from error


def _make_graph(
    model: onnx.ModelProto, signature: Signature, original: OriginalModel, foreign: ForeignModel
) -> onnx.ModelProto:
    theirs = onnx.ModelProto()
    theirs.CopyFrom(model)
    if original.batch is not None:
        free_batch_axis(theirs.graph, original.batch)
    theirs = onnx.compose.add_prefix(theirs, _PREFIX)
    graph = theirs.graph
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [BATCH_AXIS, signature.z_dim])]
    input_nodes = _make_latent_nodes(graph, signature)
    if signature.class_input is not None:
        inputs.append(helper.make_tensor_value_info("class_id", TensorProto.INT64, [BATCH_AXIS, 1]))
        count = len(foreign.class_labels)
        input_nodes += _make_column_nodes(
            graph, "class_id", signature.class_input, signature.class_form, count
        )
    if signature.truncation is not None:
        psi = helper.make_tensor_value_info("truncation", TensorProto.FLOAT, [BATCH_AXIS, 1])
        inputs.append(psi)
        input_nodes += _make_column_nodes(
            graph, "truncation", signature.truncation, signature.truncation_form, 0
        )
    for each, value in signature.constants:
        input_nodes += _make_constant_nodes(graph, each, value, signature.batch)
    nodes = [*input_nodes, *graph.node, *_make_pixel_nodes(graph, signature, original, foreign)]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [BATCH_AXIS, *original.shape])
    new_graph = helper.make_graph(nodes, "generator", inputs, [image], graph.initializer)
    new_graph.sparse_initializer.extend(graph.sparse_initializer)
    opsets = [o for o in theirs.opset_import if o.domain or o.version >= OPSET]
    ours = helper.make_model(
        new_graph, opset_imports=opsets, ir_version=max(theirs.ir_version, _IR_VERSION)
    )
    fold_batch_norm(ours)
    strip(ours)
    return ours


def _make_latent_nodes(graph: onnx.GraphProto, signature: Signature) -> list[onnx.NodeProto]:
    latent, name = signature.latent, _PREFIX + signature.latent.name
    sides = get_latent_sides(latent)
    if sides == (signature.z_dim,):
        return [helper.make_node("Cast", ["z"], [name], to=latent.dtype)]
    shape = _put(graph, "latent_shape", np.array([0, *sides], np.int64))
    return [
        helper.make_node("Reshape", ["z", shape], ["latent"]),
        helper.make_node("Cast", ["latent"], [name], to=latent.dtype),
    ]


def _make_column_nodes(
    graph: onnx.GraphProto, column: str, found: Input, form: Form | None, count: int
) -> list[onnx.NodeProto]:
    """Returns nodes that convert a column [N, 1] to the form and type that the file takes."""
    name = _PREFIX + found.name
    if form == "column":
        return [helper.make_node("Cast", [column], [name], to=found.dtype)]
    vector = f"{column}.vector"
    axis = _put(graph, f"{column}.axis", np.array([1], np.int64))
    squeeze = helper.make_node("Squeeze", [column, axis], [vector])
    if form == "index":
        return [squeeze, helper.make_node("Cast", [vector], [name], to=found.dtype)]
    depth = _put(graph, f"{column}.count", np.array(count, np.int64))
    marks = _put(graph, f"{column}.marks", np.array([0, 1], np.float32))
    return [
        squeeze,
        helper.make_node("OneHot", [vector, depth, marks], [f"{column}.one_hot"]),
        helper.make_node("Cast", [f"{column}.one_hot"], [name], to=found.dtype),
    ]


def _make_constant_nodes(
    graph: onnx.GraphProto, found: Input, value: float, batch: int | None
) -> list[onnx.NodeProto]:
    """Returns nodes for an input that always gets the same number.

    An input whose first side is open, or is the batch size of the file, gets it in each row of the
    batch. Any other input has the same shape for every batch.
    """
    name = _PREFIX + found.name
    number = _put(
        graph, f"{name}.number", np.array(value, helper.tensor_dtype_to_np_dtype(found.dtype))
    )
    if not found.shape:
        return [helper.make_node("Identity", [number], [name])]
    if found.shape[0] not in {None, batch}:
        shape = _put(graph, f"{name}.shape", np.array(compute_constant_shape(found, 1), np.int64))
        return [helper.make_node("Expand", [number, shape], [name])]
    sides = _put(graph, f"{name}.sides", np.array(compute_constant_shape(found, 1)[1:], np.int64))
    rows, shape = f"{name}.rows", f"{name}.shape"
    return [
        helper.make_node("Shape", ["z"], [rows], start=0, end=1),
        helper.make_node("Concat", [rows, sides], [shape], axis=0),
        helper.make_node("Expand", [number, shape], [name]),
    ]


def _make_pixel_nodes(
    graph: onnx.GraphProto, signature: Signature, original: OriginalModel, foreign: ForeignModel
) -> list[onnx.NodeProto]:
    """Returns nodes that convert values in their range to levels, and to NHWC."""
    low, high = map(np.float32, foreign.value_range)
    scale = LEVELS / (high - low)
    constants = {
        "scale": scale,
        "shift": -low * scale,
        "black": np.float32(0),
        "white": LEVELS,
    }
    scale_name, shift, black, white = (
        _put(graph, name, np.asarray(value)) for name, value in constants.items()
    )
    nodes = [
        helper.make_node("Cast", [_PREFIX + signature.output], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", scale_name], ["scaled"]),
        helper.make_node("Add", ["scaled", shift], ["levels"]),
        helper.make_node("Clip", ["levels", black, white], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["bytes"], to=TensorProto.UINT8),
    ]
    height, width, channels = original.shape
    if original.layout != "nchw":
        shape = _put(graph, "image_shape", np.array([0, height, width, channels], np.int64))
        return [*nodes, helper.make_node("Reshape", ["bytes", shape], ["image"])]
    planes = "bytes"
    if original.is_flat:
        planes = "planes"
        shape = _put(graph, "image_shape", np.array([0, channels, height, width], np.int64))
        nodes.append(helper.make_node("Reshape", ["bytes", shape], [planes]))
    return [*nodes, helper.make_node("Transpose", [planes], ["image"], perm=[0, 2, 3, 1])]


def _put(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
