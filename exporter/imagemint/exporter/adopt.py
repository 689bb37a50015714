"""A generator that somebody else exported, made to look like one of our own."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine import BackendFailed, BundleRefused, Distribution
from imagemint.engine.onnx_session import Session, cpu_session
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import OPSET
from imagemint.exporter.parity import Original
from imagemint.exporter.surgery import BATCH_AXIS, fold_batch_norm, strip

_PREFIX = "adopted."
_ROWS = 2  # of the batch by which the shape of the images is found out
_LEVELS = np.float32(255)
_RANKS = (2, 4)

_Floats = npt.NDArray[np.float32]
_Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Foreign:
    """What must be said of somebody else's graph, for nothing in it tells.

    Attributes:
        path: the ONNX file.
        value_range: what black and white are in its output; (0, 255) of levels.
        layout: order of the axes of its output.
        class_labels: label texts by index; empty for a model that takes no class.
        distribution: of each element of its latents.
        latent: name of the input that takes them; None where there is but one that can be meant.
        class_input: name of the input that takes the class, as a number or one-hot; likewise.
        output: name of the output that holds the images; likewise.
        dataset: what it was trained on, such as `mnist/train`; empty if nobody knows.
    """

    path: Path
    value_range: tuple[float, float]
    layout: Literal["nchw", "nhwc"] = "nchw"
    class_labels: tuple[str, ...] = ()
    distribution: Distribution = Distribution.NORMAL
    latent: str | None = None
    class_input: str | None = None
    output: str | None = None
    dataset: str = ""


@dataclass(frozen=True)
class Adopted:
    """A foreign generator in our terms.

    Attributes:
        model: takes `z` and `class_id`, yields `image`, like every bundle's.
        original: the file as it came.
        z_dim: length of a latent.
        shape: height, width and channels of an image.
        sha256: of the file as it came.
        class_labels: as they were told.
        distribution: likewise.
        dataset: likewise.
    """

    model: onnx.ModelProto
    original: Original
    z_dim: int
    shape: tuple[int, int, int]
    sha256: str
    class_labels: tuple[str, ...]
    distribution: Distribution
    dataset: str


def adopt(foreign: Foreign) -> Adopted:
    """Reads a foreign graph, and builds ours around it.

    Scaling, clamping, rounding (half to even) and the transpose are put behind its output; operator
    sets older than ours are converted.

    Raises:
        ExportError: it is no ONNX model, or none that takes latents (and classes) and yields images
            as was told; says what was found.
    """
    low, high = foreign.value_range
    if not high > low:
        raise ExportError(f"value range {low:g} to {high:g} is empty")
    content = _read(foreign.path)
    model = _parsed(foreign.path, content)
    signature = _Signature.of(model.graph, foreign)
    session = _session(model, signature, foreign)
    runs = _Runs(session, signature, foreign)
    shape = runs.shape()
    return Adopted(
        _ours(model, signature, foreign, shape),
        Original(foreign.path.name, runs.pixels),
        signature.z_dim,
        shape,
        hashlib.sha256(content).hexdigest(),
        foreign.class_labels,
        foreign.distribution,
        foreign.dataset,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    """The model at our operator set or a newer one, without constants among its inputs."""
    try:
        # From a string: nothing outside it is opened.
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
        version = max(
            opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"}
        )
        if version < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
    except (DecodeError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise ExportError(f"{path} is no ONNX model that can be adopted: {first}") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@dataclass(frozen=True)
class _Signature:
    """Which of its inputs and outputs are meant, and in which form they take what they take."""

    latent: str
    z_dim: int
    latent_rank: int
    class_input: str | None
    class_form: Literal["index", "column", "one-hot"] | None
    class_type: int
    output: str
    batch: int | None
    """The only size of batch that it is declared for; None for any."""

    @classmethod
    def of(cls, graph: onnx.GraphProto, foreign: Foreign) -> "_Signature":
        inputs = {value.name: value.type.tensor_type for value in graph.input}
        floats = [n for n, t in inputs.items() if t.elem_type == TensorProto.FLOAT]
        class_input = foreign.class_input
        if class_input is None and foreign.class_labels:
            others = [name for name in inputs if name != foreign.latent]
            numbers = [name for name in others if name not in floats]
            class_input = _the_one("class input", numbers or others[1:], inputs)
        latent = foreign.latent or _the_one(
            "latent input", [name for name in floats if name != class_input], inputs
        )
        for name in (latent, *([class_input] if class_input else [])):
            if name not in inputs:
                raise ExportError(f"no input {name!r}; there is {_listed(inputs)}")
        if left := set(inputs) - {latent, class_input}:
            raise ExportError(
                f"nobody told what input {_listed(left)} is: latents and classes are what a"
                " generator takes (name a class input, and its labels, if that is one)"
            )
        outputs = [value.name for value in graph.output]
        output = foreign.output or _the_one("output", outputs, outputs)
        if output not in outputs:
            raise ExportError(f"no output {output!r}; there is {_listed(outputs)}")
        shape = _shape(inputs[latent])
        z_dim = shape[1] if len(shape) in _RANKS else None
        if not z_dim or any(side != 1 for side in shape[2:]):
            raise ExportError(f"input {latent!r} is no batch of latents: {_spelt(shape)}")
        form = None if class_input is None else _class_form(inputs[class_input], foreign)
        if bool(foreign.class_labels) != (form is not None):
            missing = "class input" if form is None else "class labels"
            raise ExportError(f"a model of classes needs both: the {missing} are missing")
        class_type = 0 if class_input is None else inputs[class_input].elem_type
        return cls(latent, z_dim, len(shape), class_input, form, class_type, output, shape[0])


def _class_form(
    found: onnx.TypeProto.Tensor, foreign: Foreign
) -> Literal["index", "column", "one-hot"]:
    shape, labels = _shape(found), len(foreign.class_labels)
    whole = found.elem_type in (TensorProto.INT64, TensorProto.INT32)
    if whole and len(shape) == 1:
        return "index"
    if whole and len(shape) == 2 and shape[1] == 1:  # noqa: PLR2004 - axes
        return "column"
    if found.elem_type == TensorProto.FLOAT and shape[1:] == [labels]:
        return "one-hot"
    kind = TensorProto.DataType.Name(found.elem_type).lower()
    raise ExportError(
        f"the class input is {kind} {_spelt(shape)}: neither a number for each image nor one-hot"
        f" over the {labels} labels"
    )


def _the_one(what: str, names: list[str], among: object) -> str:
    if len(names) != 1:
        raise ExportError(f"which is the {what}? There is {_listed(among)}; name it")
    return names[0]


def _listed(names: object) -> str:
    return ", ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload] # any iterable


def _shape(tensor: onnx.TypeProto.Tensor) -> list[int | None]:
    """Sides; None for one that is not fixed."""
    return [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]


def _spelt(shape: list[int | None]) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"


def _session(model: onnx.ModelProto, signature: _Signature, foreign: Foreign) -> Session:
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    del alone.graph.output[:]
    alone.graph.output.append(onnx.ValueInfoProto(name=signature.output))
    try:
        return cpu_session(alone.SerializeToString(), 1, foreign.path)
    except BundleRefused as error:
        raise ExportError(f"{foreign.path}: {error.why}") from error


class _Runs:
    """The file as it came, run by itself."""

    def __init__(self, session: Session, signature: _Signature, foreign: Foreign) -> None:
        self._session = session
        self._signature = signature
        self._foreign = foreign

    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        rows = self._signature.batch or _ROWS
        classes = np.zeros(rows, np.int64) if self._foreign.class_labels else None
        found = self._values(np.zeros((rows, self._signature.z_dim), np.float32), classes)
        if found.ndim != 4 or len(found) != rows:  # noqa: PLR2004 - axes
            raise ExportError(f"output {self._signature.output!r} is no batch of images:"
                              f" {list(found.shape)}")  # fmt: skip
        height, width, channels = found.shape[1:]
        return height, width, channels

    def pixels(
        self, z: _Floats, classes: _Classes | None, psi: _Floats | None
    ) -> npt.NDArray[np.uint8]:
        """Its images uint8 [N, H, W, C], scaled and rounded here."""
        del psi  # no foreign model takes any
        size = self._signature.batch or len(z)
        parts = []
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            short = size - len(z[part])
            padded = np.pad(z[part], ((0, short), (0, 0)))
            told = None if classes is None else np.pad(classes[part], (0, short))
            parts.append(self._values(padded, told)[: size - short])
        low, high = map(np.float32, self._foreign.value_range)
        levels = (np.concatenate(parts) - low) * (_LEVELS / (high - low))
        pixels: npt.NDArray[np.uint8] = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
        return pixels

    def _values(self, z: _Floats, classes: _Classes | None) -> _Floats:
        """What it yields [N, H, W, C]."""
        signature = self._signature
        feed = {signature.latent: z.reshape(z.shape + (1,) * (signature.latent_rank - 2))}
        if classes is not None and signature.class_input is not None:
            feed[signature.class_input] = _FORMS[signature.class_form or "index"](
                classes, len(self._foreign.class_labels)
            ).astype(helper.tensor_dtype_to_np_dtype(signature.class_type))
        try:
            found = self._session.run(feed)
        except BackendFailed as error:
            raise ExportError(f"{self._foreign.path} does not run: {error.__cause__}") from error
        found = found.astype(np.float32)
        return found.transpose(0, 2, 3, 1) if self._foreign.layout == "nchw" else found


_FORMS: dict[str, Callable[[_Classes, int], npt.NDArray[np.generic]]] = {
    "index": lambda classes, _: classes,
    "column": lambda classes, _: classes[:, np.newaxis],
    "one-hot": lambda classes, count: np.eye(count)[classes],
}


def _ours(
    model: onnx.ModelProto, signature: _Signature, foreign: Foreign, shape: tuple[int, int, int]
) -> onnx.ModelProto:
    """The graph of a bundle around that of the file."""
    adopted = onnx.compose.add_prefix(model, _PREFIX)
    graph = adopted.graph
    values = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [BATCH_AXIS, signature.z_dim])]
    before = _latent_nodes(graph, signature)
    if signature.class_form is not None:
        values.append(helper.make_tensor_value_info("class_id", TensorProto.INT64, [BATCH_AXIS, 1]))
        before += _class_nodes(graph, signature, len(foreign.class_labels))
    nodes = [*before, *graph.node, *_pixel_nodes(graph, signature, foreign)]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [BATCH_AXIS, *shape])
    whole = helper.make_graph(nodes, "generator", values, [image], graph.initializer)
    whole.sparse_initializer.extend(graph.sparse_initializer)
    opsets = [o for o in adopted.opset_import if o.domain or o.version >= OPSET]
    ours = helper.make_model(
        whole, opset_imports=opsets, ir_version=adopted.ir_version, functions=adopted.functions
    )
    fold_batch_norm(ours)
    strip(ours)
    return ours


def _latent_nodes(graph: onnx.GraphProto, signature: _Signature) -> list[onnx.NodeProto]:
    name = _PREFIX + signature.latent
    if signature.latent_rank == 2:  # noqa: PLR2004 - axes
        return [helper.make_node("Identity", ["z"], [name])]
    shape = _put(graph, "latent_shape", np.array([0, signature.z_dim, 1, 1], np.int64))
    return [helper.make_node("Reshape", ["z", shape], [name])]


def _class_nodes(graph: onnx.GraphProto, signature: _Signature, count: int) -> list[onnx.NodeProto]:
    name, form = f"{_PREFIX}{signature.class_input}", signature.class_form
    if form == "column":
        return [helper.make_node("Cast", ["class_id"], [name], to=signature.class_type)]
    axis = _put(graph, "class_axis", np.array([1], np.int64))
    squeeze = helper.make_node("Squeeze", ["class_id", axis], ["class_index"])
    if form == "index":
        return [
            squeeze,
            helper.make_node("Cast", ["class_index"], [name], to=signature.class_type),
        ]
    depth = _put(graph, "class_count", np.array(count, np.int64))
    marks = _put(graph, "class_marks", np.array([0, 1], np.float32))
    return [squeeze, helper.make_node("OneHot", ["class_index", depth, marks], [name])]


def _pixel_nodes(
    graph: onnx.GraphProto, signature: _Signature, foreign: Foreign
) -> list[onnx.NodeProto]:
    """From values in their range to levels, and to NHWC."""
    low, high = map(np.float32, foreign.value_range)
    scale = _LEVELS / (high - low)
    constants = {
        "scale": scale,
        "shift": -low * scale,
        "black": np.float32(0),
        "white": _LEVELS,
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
    ]
    if foreign.layout == "nhwc":
        return [*nodes, helper.make_node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8)]
    return [
        *nodes,
        helper.make_node("Cast", ["rounded"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["image"], perm=[0, 2, 3, 1]),
    ]


def _put(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
