"""Writes the configuration with which a standard Triton Inference Server serves a bundle."""

from pathlib import Path

import onnx
from google.protobuf import text_format
from onnx import TensorProto

from imagemint.engine.bundle import MODEL_FILE, Bundle
from imagemint.exporter.errors import ExportError
from imagemint.open_inference import model_config_pb2 as pb

CONFIG_FILE = "config.pbtxt"
"""Name of Triton's file in the directory of a model, beside its versions."""

_DATA_TYPES: "dict[int, pb.DataType.ValueType]" = {  # a type of the stubs only
    TensorProto.FLOAT: pb.DataType.TYPE_FP32,
    TensorProto.INT64: pb.DataType.TYPE_INT64,
    TensorProto.UINT8: pb.DataType.TYPE_UINT8,
}
_MAX_BATCH_SIZE = 64
_ANY_SIZE = -1
_HEAD = """\
# Written by `imagemint export --triton`. Triton takes latents, not serial numbers: callers draw z
# as docs/sampling.md says. Change max_batch_size and add instance_group for your device.
"""
# By default, Triton serves only the newest version, but a serial number names any version.
_VERSIONS = "version_policy { all { } }\n"


def write_triton_config(bundle: Bundle) -> Path:
    """Writes config.pbtxt beside the version of a bundle, and returns its path.

    A file that describes the same tensors is left as it is, because you may have edited it.

    Args:
        bundle: a bundle in a model repository.

    Raises:
        ExportError: there is a file that describes other tensors, or is not readable. Triton serves
            all versions of a model with one configuration.
    """
    path = bundle.directory.parent / CONFIG_FILE
    config = _describe(bundle)
    if not path.exists():
        path.write_text(_HEAD + _VERSIONS + text_format.MessageToString(config))
        return path
    present = pb.ModelConfig()
    try:
        # It may have fields that our part of Triton's schema omits.
        text_format.Parse(path.read_text(), present, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not readable, and is left as it is: {error}") from error
    if (list(present.input), list(present.output)) != (list(config.input), list(config.output)):
        raise ExportError(
            f"{path} describes other inputs or outputs than version {bundle.version}, and is left"
            " as it is: export the generator under another name for Triton"
        )
    return path


def _describe(bundle: Bundle) -> pb.ModelConfig:
    graph = onnx.load_model_from_string(bundle.read_model()).graph
    return pb.ModelConfig(
        name=bundle.spec.name,
        backend="onnxruntime",
        default_model_filename=MODEL_FILE,
        max_batch_size=_MAX_BATCH_SIZE,
        input=[
            pb.ModelInput(name=each.name, data_type=_get_data_type(each), dims=_read_dims(each))
            for each in graph.input
        ],
        output=[
            pb.ModelOutput(name=each.name, data_type=_get_data_type(each), dims=_read_dims(each))
            for each in graph.output
        ],
        dynamic_batching=pb.ModelDynamicBatching(),
    )


def _get_data_type(value: onnx.ValueInfoProto) -> "pb.DataType.ValueType":
    return _DATA_TYPES[value.type.tensor_type.elem_type]


def _read_dims(value: onnx.ValueInfoProto) -> list[int]:
    """Returns the shape of one row; Triton adds the batch in front."""
    axes = value.type.tensor_type.shape.dim[1:]
    return [axis.dim_value if axis.HasField("dim_value") else _ANY_SIZE for axis in axes]
