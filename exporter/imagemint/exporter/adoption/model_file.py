"""Reads an ONNX file from disk, with weights in a second file."""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper

from imagemint.exporter.adoption.conversion import convert_operator_set, get_operator_set
from imagemint.exporter.adoption.operators import inline_functions
from imagemint.exporter.errors import ExportError

_OLDEST_THAT_RUNS = 7  # operator set; ONNX Runtime runs no older one
_REMEDY = "Put it there, or export again with external_data=False"


@dataclass(frozen=True)
class ModelFile:
    """A foreign file with its weights.

    Attributes:
        written: the model as its file has it, or as converted if ONNX Runtime does not run that.
        model: the model at our operator set or a newer one, without functions.
        sha256: SHA-256 of the file and of its files of weights.
    """

    written: onnx.ModelProto
    model: onnx.ModelProto
    sha256: str

    @property
    def is_converted(self) -> bool:
        """Whether the model has another operator set than the file."""
        return get_operator_set(self.written) != get_operator_set(self.model)


def read_model(path: Path) -> ModelFile:
    """Returns the model of a file, complete.

    Weights in a second file are read if that file is in the directory of the model, under a plain
    name. No other place is searched, such as the current directory or parent directories. The
    digest covers the model file and then each file of weights, in the order of their names.

    Raises:
        ExportError: the file cannot be read, is not an ONNX model, its weights are missing, or it
            has operators that ONNX Runtime does not ship.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error
    digest = hashlib.sha256(content)
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise _make_error(path, error) from error
    for name in sorted(set(_list_weight_files(model, path))):
        digest.update((path.absolute().parent / name).read_bytes())
    _load_weights(model, path)
    try:
        written = _check(model, path)
        # The converter knows neither functions nor domains of others.
        model = convert_operator_set(inline_functions(written, path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise _make_error(path, error) from error
    if get_operator_set(written) < _OLDEST_THAT_RUNS:
        written = model
    # A copy, because adoption changes the model.
    model = onnx.ModelProto.FromString(model.SerializeToString())
    _drop_constant_inputs(model.graph)
    return ModelFile(written, model, digest.hexdigest())


def _make_error(path: Path, error: Exception) -> ExportError:
    first = (str(error).strip().splitlines() or ["it cannot be read"])[0]
    return ExportError(f"{path} is no ONNX model that can be adopted: {first}")


def _list_weight_files(model: onnx.ModelProto, path: Path) -> Iterator[str]:
    """Returns the names of the files that tensors refer to.

    Each is a regular file beside the model.
    """
    for tensor in _list_external_tensors(model):
        location = external_data_helper.ExternalDataInfo(tensor).location
        if not location or Path(location).name != location:
            raise ExportError(
                f"{path} keeps weights in {location!r}, which is no plain file name."
                " Export again with external_data=False"
            )
        beside = path.absolute().parent / location
        try:
            mode = beside.lstat().st_mode
        except OSError as error:
            raise ExportError(
                f"{path} keeps its weights in a second file, and {beside.name} is not beside it"
                f" ({error.strerror}). {_REMEDY}"
            ) from error
        if not stat.S_ISREG(mode):
            raise ExportError(f"{beside}, the weights of {path.name}, is no regular file")
        yield location


def _list_external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    # The function of onnx itself also visits subgraphs and attributes.
    for tensor in external_data_helper._get_all_tensors(model):  # noqa: SLF001 - no public name
        if external_data_helper.uses_external_data(tensor):
            yield tensor


def _load_weights(model: onnx.ModelProto, path: Path) -> None:
    try:
        # An absolute directory: a relative one would be joined with the current directory.
        external_data_helper.load_external_data_for_model(model, str(path.absolute().parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path}: its weights cannot be read: {error}") from error


def _check(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Returns the model with the shapes of its outputs, after onnx has checked it."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in initialized and not _has_shape(value):
            raise ExportError(f"Input {value.name!r} of {path} has no shape. Export it with one")
    if not all(map(_has_shape, model.graph.output)):
        # ONNX Runtime needs no declared shapes of outputs, but the checker does.
        model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return not value.type.HasField("tensor_type") or value.type.tensor_type.HasField("shape")


def _drop_constant_inputs(graph: onnx.GraphProto) -> None:
    """Removes initializers from the inputs, where exporters before IR version 4 list them."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
