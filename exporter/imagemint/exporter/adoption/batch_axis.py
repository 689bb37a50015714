"""Changes a graph that was exported for one batch size to take any."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

_SPATIAL = [2, 3]
_SUFFIX = ".any_batch"
# The input that has the shape. A Resize by scales, its input 2, keeps the batch axis as it is.
_PLACES = {"Reshape": 1, "Expand": 1, "Resize": 3}


def free_batch_axis(graph: onnx.GraphProto, batch: int) -> None:
    """Replaces the constant batch size in a graph; changes the graph in place.

    In a graph that was exported for one batch size, the target shapes of Reshape and Expand, and
    the sizes of Resize, begin with it. This function cannot verify the result, so compare it with
    the original.

    Args:
        graph: a graph whose inputs have `batch` rows.
        batch: the batch size of the export.
    """
    constants = dict(_list_constants(graph))
    for node in graph.node:
        place = _PLACES.get(node.op_type, len(node.input))
        name = "".join(node.input[place : place + 1])
        if name not in constants:
            continue
        shape = constants[name].astype(np.int64)  # as each of the three takes it
        if shape.ndim != 1 or shape[:1].tolist() != [batch]:
            continue
        freed = _FREED[node.op_type](node, shape)
        if freed is not None:
            node.input[place] = _add(graph, f"{name}{_SUFFIX}.{node.op_type}", freed)


def _reshape(_: onnx.NodeProto, shape: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # 0 copies the first side of the input; -1 infers the only side that is open.
    return np.concatenate([[0 if -1 in shape else -1], shape[1:]]).astype(np.int64)


def _expand(_: onnx.NodeProto, shape: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[1], shape[1:]]).astype(np.int64)


def _resize(node: onnx.NodeProto, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    if len(sizes) != 2 + len(_SPATIAL) or any(a.name == "axes" for a in node.attribute):
        return None
    node.attribute.append(helper.make_attribute("axes", _SPATIAL))
    return sizes[2:]


_FREED = {"Reshape": _reshape, "Expand": _expand, "Resize": _resize}


def _list_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.name == "value":
                yield node.output[0], numpy_helper.to_array(value)
            elif attribute.name == "value_ints":
                yield node.output[0], np.array(value, np.int64)


def _add(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.int64]) -> str:
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(value, name))
    return name
