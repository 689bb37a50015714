"""Converts graphs to lower precision: 8-bit integers for CPUs, half precision for GPUs.

ONNX Runtime's tools convert the graph, and this module does the remaining work. No other module of
the exporter imports onnxruntime.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

# Imported first, because it switches off the telemetry of ONNX Runtime.
from imagemint.engine.onnx.session import RUNTIME_VERSION
from imagemint.exporter.surgery import sort_nodes, strip

from onnxruntime.quantization import (  # isort: skip - see above
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16  # isort: skip - likewise

Feed = dict[str, npt.NDArray[Any]]

_MOVING = {"Transpose", "Reshape", "Slice"}
_SUMMING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def quantize_to_int8(
    model: onnx.ModelProto, feeds: Sequence[Feed], kinds: Sequence[str]
) -> onnx.ModelProto:
    """Returns a copy with the operators `kinds` in 8-bit integers (QDQ, static).

    Weights are signed, with a scale for each output channel. Activations are unsigned, with one
    scale and zero point for each value, from the minimum and maximum in `feeds`. Sums are exact
    integers, so pixels do not depend on the batch. Everything after the last sum stays float32,
    because in 8 bits its steps would be visible.

    Args:
        model: a graph without transposed convolutions, which have no 8-bit form.
        feeds: batches of inputs for calibration.
        kinds: operators, such as Conv.
    """
    with tempfile.TemporaryDirectory() as folder, _silence_logs():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            _copy_with_node_names(model),
            path,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(kinds),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            # Quantised once, at the reader; quantising twice would lose precision.
            extra_options={"OpTypesToExcludeOutputQuantization": list(kinds)},
        )
        quantised = onnx.load_model(path)
    _quantise_before_moving(quantised.graph)
    strip(quantised)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def has_sums(graph: onnx.GraphProto) -> bool:
    """Returns whether a graph has convolutions or matrix products."""
    return any(node.op_type in _SUMMING for node in graph.node)


def convert_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy with weights and sums in half precision.

    Inputs stay float32, and so does everything after the last sum: 255 levels need 8 of the 11
    bits.

    Args:
        model: a graph with sums; see `has_sums`.
    """
    copy = _copy_with_node_names(model)
    nodes = list(copy.graph.node)
    last = max(i for i, node in enumerate(nodes) if node.op_type in _SUMMING)
    halved: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, node_block_list=[node.name for node in nodes[last + 1 :]]
    )
    _remove_cast_pairs(halved.graph)
    sort_nodes(halved.graph)
    strip(halved)
    onnx.checker.check_model(halved, full_check=True)
    return halved


def _remove_cast_pairs(graph: onnx.GraphProto) -> None:
    """Removes casts from float32 to half precision and back between two nodes of float32."""
    casts = {
        node.output[0]: (node, node.attribute[0].i) for node in graph.node if node.op_type == "Cast"
    }
    for cast, to in list(casts.values()):
        narrow, narrow_to = casts.get(cast.input[0], (None, 0))
        if narrow is None or (narrow_to, to) != (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT):
            continue
        for node in graph.node:
            node.input[:] = [narrow.input[0] if n == cast.output[0] else n for n in node.input]
    for to in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):  # one cast reads the other
        read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
        for output, (cast, own) in casts.items():
            if own == to and output not in read:
                graph.node.remove(cast)


def describe_quantizer() -> str:
    """Returns the name and version of the quantizer, for the record."""
    return f"onnxruntime.quantization {RUNTIME_VERSION}"


class _Feeds(CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no types
    """Returns the feeds one after the other to the calibration."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        """Returns the next batch; None after the last."""
        return next(self._left, None)


def _copy_with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy in which every node has a unique name, which the tools need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for number, node in enumerate(copy.graph.node):
        node.name = f"{node.op_type}.{number}"
    return copy


def _quantise_before_moving(graph: onnx.GraphProto) -> None:
    """Moves each QuantizeLinear before nodes that only move or clamp values.

    Then bytes move instead of floats, and the QuantizeLinear follows the convolution directly, so
    that the runtime fuses the two. The result is exact: rounding commutes with moving and clamping.
    """
    constants = {t.name: t for t in graph.initializer}
    while True:
        producers = {name: node for node in graph.node for name in node.output}
        readers = [name for node in graph.node for name in node.input]
        for quantise in (node for node in graph.node if node.op_type == "QuantizeLinear"):
            above = producers.get(quantise.input[0])
            if above is None or readers.count(above.output[0]) > 1:
                continue
            if above.op_type in _MOVING or _clamps(above, constants):
                _swap(graph, above, quantise, constants)
                break
        else:
            break
        sort_nodes(graph)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _clamps(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    return node.op_type == "Min" and all(name in constants for name in node.input[1:])


def _swap(
    graph: onnx.GraphProto,
    above: onnx.NodeProto,
    quantise: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
) -> None:
    if above.op_type == "Min":
        scale, zero = (numpy_helper.to_array(constants[name]) for name in quantise.input[1:3])
        for at, name in enumerate(above.input[1:], start=1):
            limit = numpy_helper.to_array(constants[name]).astype(np.float64) / scale
            level = np.clip(np.rint(limit) + zero, 0, 255).astype(np.uint8)
            above.input[at] = f"{quantise.output[0]}.limit{at}"
            graph.initializer.append(numpy_helper.from_array(level, above.input[at]))
            constants[above.input[at]] = graph.initializer[-1]
    value, end = above.input[0], quantise.output[0]
    quantise.input[0], quantise.output[0] = value, f"{end}.{above.op_type}"
    above.input[0], above.output[0] = quantise.output[0], end


@contextmanager
def _silence_logs() -> Iterator[None]:
    """Silences the advice that the quantizer logs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
