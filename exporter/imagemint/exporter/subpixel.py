"""Replaces transposed convolutions by plain ones, which CPUs compute faster, with equal pixels.

A transposed convolution of stride 2 with a 4x4 kernel and padding 1 gives, along one axis,

    out[2k - 1] = w[2] x[k - 1] + w[0] x[k]
    out[2k]     = w[3] x[k - 1] + w[1] x[k]        x is 0 outside

so the pair (2k - 1, 2k) is a 2-tap convolution at place k of x padded by one, for k = 0 to the
length of x. In two dimensions these pairs are blocks of 2x2 pixels: a 2x2 convolution yields their
four pixels as groups of channels, a shuffle puts them where they belong, and the outermost row and
column of pixels, which lie outside the image, are cut off. (Shi et al., "Is the deconvolution layer
the same as a convolutional layer?", 2016, with blocks of pixels 2k and 2k + 1, whose kernel is 3x3:
2.25 times the multiplications, where these blocks take 1.1 to 1.3 times.)

The last 3x3 convolution, to the few channels of an image, is by far the slowest on CPUs. It is
computed on the blocks before they are shuffled: a block of the image depends on 2x2 blocks. Each
block is multiplied by one matrix for the four places that need it, and the products are added.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

_Floats = npt.NDArray[np.float32]

_KERNEL, _STRIDE, _PAD = 4, 2, 1
# Row q of a block takes its two taps, at k - 1 and k, from these rows of the kernel.
_TAPS = ((2, 0), (3, 1))
_NHWC = [0, 2, 3, 1]
_NCHW = [0, 3, 1, 2]
_SHUFFLE = [0, 1, 3, 2, 4]
_POINTWISE = {"Tanh", "Sigmoid", "Relu", "Clip", "Round", "Cast", "Mul", "Add", "Sub", "Div"}
_INSIDE = np.finfo(np.float32).max
_PLACES = tuple(itertools.product((0, 1), (0, 1)))


def replace_transposed_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy with plain convolutions in place of transposed ones.

    Pixels may differ by rounding, because the order of sums changes. A transposed convolution of
    another kind (kernel, stride, padding, groups, computed weights, not float32) stays as it is.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _Rewriter(changed.graph, onnx.shape_inference.infer_shapes(model).graph).run()
    onnx.checker.check_model(changed, full_check=True)
    return changed


@dataclass(frozen=True)
class _Tail:
    """The nodes from the last transposed convolution to the image, without branches."""

    convolution: onnx.NodeProto
    pointwise: Sequence[onnx.NodeProto]
    image: str
    """The graph's output."""
    nodes: Sequence[onnx.NodeProto]
    """All nodes, with the transpose to NHWC."""


class _Rewriter:
    """Rewrites one graph.

    Args:
        graph: the graph; it is changed.
        inferred: the same graph with the shapes of all values.
    """

    def __init__(self, graph: onnx.GraphProto, inferred: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._shapes = {v.name: _read_shape(v) for v in [*inferred.value_info, *inferred.input]}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._stem = ""

    def run(self) -> None:
        """Rewrites every transposed convolution that has the right form."""
        replaced: set[str] = set()  # by first output, which is unique
        for node in self._graph.node:
            if node.output[0] in replaced:
                continue
            if self._is_replaceable(node):
                replaced.update(self._rewrite(node))
            else:
                self._nodes.append(node)
        # Copies, because clearing the list clears its elements.
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        tensors = [t for t in self._graph.initializer if t.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(tensors)

    def _is_replaceable(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "ConvTranspose" or node.domain:
            return False
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        required = {
            "kernel_shape": [_KERNEL] * 2,
            "strides": [_STRIDE] * 2,
            "pads": [_PAD] * 4,
            "group": 1,
            "dilations": [1, 1],
            "output_padding": [0, 0],
            "auto_pad": b"NOTSET",
        }
        optional = {"group", "dilations", "output_padding", "auto_pad"}
        as_wanted = all(
            attributes.get(name, value if name in optional else None) == value
            for name, value in required.items()
        )
        shape = self._shapes.get(node.input[0], [])
        constant = all(map(self._is_constant, node.input[1:]))
        known = len(shape) == len(_NHWC) and all(isinstance(n, int) for n in shape[2:])
        return as_wanted and constant and known and "output_shape" not in attributes

    def _rewrite(self, node: onnx.NodeProto) -> Iterator[str]:
        """Replaces the node and those that go with it; yields the outputs of the replaced nodes."""
        weight = self._constants[node.input[1]]
        channels = weight.shape[1]
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(channels)  # noqa: PLR2004 - has a bias
        height, width = (int(n) + 1 for n in self._shapes[node.input[0]][2:])
        end = self._stem = node.output[0]
        kernel = self._add_constant("blocks", _make_block_kernel(weight))
        biases = self._add_constant("bias", np.tile(bias, 4).astype(np.float32))
        blocks = self._put(
            "Conv", [node.input[0], kernel, biases], kernel_shape=[2, 2], pads=[1] * 4
        )
        yield end
        relu = self._find_only_reader(end, {"Relu"})
        if relu is not None:
            blocks = self._put("Relu", [blocks])
            end = relu.output[0]
            yield end
        blocks = self._put("Transpose", [blocks], perm=_NHWC)
        tail = None if relu is None else self._find_tail(end)
        if tail is None:
            pixels = self._put_shuffle(blocks, height, width, channels)
            edges = [self._add_integers(n, v) for n, v in _INNER.items()]
            inner = self._put("Slice", [pixels, *edges])
            self._put("Transpose", [inner], end, perm=_NCHW)
        else:
            self._put_tail(tail, blocks, (height, width, channels))
            yield from (each.output[0] for each in tail.nodes)

    def _put_tail(self, tail: _Tail, blocks: str, shape: tuple[int, int, int]) -> None:
        """Adds the last convolution and what follows, on blocks [N, height, width, 4 channels]."""
        height, width, channels = shape
        weight = self._constants[tail.convolution.input[1]]
        colours = len(weight)
        # The outermost pixels lie outside the image, where a convolution must meet zeros. Values
        # are 0 or more here, so that the lesser of two is the value itself or 0.
        mask = self._add_constant("inside", _make_upper_limit(height, width, channels))
        blocks = self._put("Min", [blocks, mask])
        matrix = self._add_constant("last", _make_last_matrix(weight))
        products = self._put("MatMul", [blocks, matrix])
        axes = self._add_integers("places", [1, 2, 3])
        total = ""
        for number, (y, x) in enumerate(_PLACES):
            first, last = 4 * colours * number, 4 * colours * (number + 1)
            start = self._add_integers("from", [y, x, first])
            stop = self._add_integers("to", [y + height - 1, x + width - 1, last])
            part = self._put("Slice", [products, start, stop, axes])
            total = self._put("Add", [total, part]) if total else part
        if len(tail.convolution.input) > 2:  # noqa: PLR2004 - has a bias
            bias = np.tile(self._constants[tail.convolution.input[2]], 4)
            total = self._put("Add", [total, self._add_constant("last_bias", bias)])
        before = tail.convolution.output[0]
        for step in tail.pointwise:
            copy = onnx.NodeProto()
            copy.CopyFrom(step)
            copy.input[:] = [total if name == before else name for name in step.input]
            self._nodes.append(copy)
            before = total = step.output[0]
        self._put_shuffle(total, height - 1, width - 1, colours, tail.image)

    def _find_tail(self, value: str) -> _Tail | None:
        """Returns the nodes from a value to the image: a 3x3 convolution and pointwise steps."""
        convolution = self._find_only_reader(value, {"Conv"})
        if convolution is None or not self._is_last(convolution):
            return None
        steps: list[onnx.NodeProto] = []
        at = convolution.output[0]
        while (step := self._find_only_reader(at, _POINTWISE)) is not None:
            if any(name and name != at and not self._is_scalar(name) for name in step.input):
                return None
            steps.append(step)
            at = step.output[0]
        transpose = self._find_only_reader(at, {"Transpose"})
        if transpose is None or transpose.output[0] not in self._outputs:
            return None
        if list(transpose.attribute[0].ints) != _NHWC:
            return None
        nodes = [convolution, *steps, transpose]
        return _Tail(convolution, steps, transpose.output[0], nodes)

    def _is_last(self, node: onnx.NodeProto) -> bool:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return (
            all(map(self._is_constant, node.input[1:]))
            and self._constants[node.input[1]].shape[2:] == (3, 3)
            and attributes.get("pads") == [1] * 4
            and attributes.get("strides", [1, 1]) == attributes.get("dilations", [1, 1]) == [1, 1]
            and attributes.get("group", 1) == 1
            and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        )

    def _is_constant(self, name: str) -> bool:
        # Other floats would be rounded after each sum, and the last one only in the original.
        return name in self._constants and self._constants[name].dtype == np.float32

    def _is_scalar(self, name: str) -> bool:
        return name in self._constants and self._constants[name].size == 1

    def _find_only_reader(self, value: str, kinds: set[str]) -> onnx.NodeProto | None:
        readers = self._readers.get(value, [])
        if len(readers) != 1 or value in self._outputs or readers[0].op_type not in kinds:
            return None
        return readers[0]

    def _put_shuffle(
        self, blocks: str, height: int, width: int, channels: int, name: str | None = None
    ) -> str:
        """Adds the shuffle of blocks [N, height, width, 4 channels] to pixels; returns the name."""
        rows = self._add_integers("rows", [0, height, width, 2, 2 * channels])
        reshaped = self._put("Reshape", [blocks, rows])
        shuffled = self._put("Transpose", [reshaped], perm=_SHUFFLE)
        shape = self._add_integers("whole", [0, 2 * height, 2 * width, channels])
        return self._put("Reshape", [shuffled, shape], name)

    def _put(
        self,
        kind: str,
        inputs: list[str],
        name: str | None = None,
        **attributes: Any,  # noqa: ANN401 - any attribute of the operator
    ) -> str:
        name = name or f"{self._stem}.{kind.lower()}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _add_integers(self, what: str, values: list[int]) -> str:
        return self._add_constant(what, np.array(values, np.int64))

    def _add_constant(self, what: str, value: npt.NDArray[np.generic]) -> str:
        name = f"{self._stem}.{what}.{len(self._nodes)}"
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name


_INNER = {"begin": [1, 1], "end": [-1, -1], "axes": [1, 2]}


def _make_block_kernel(weight: _Floats) -> _Floats:
    """Returns the kernel [4 C_out, C_in, 2, 2] for a transposed one [C_in, C_out, 4, 4]."""
    kernel = np.empty((2, 2, weight.shape[1], weight.shape[0], 2, 2), np.float32)
    for (row, column), (y, x) in itertools.product(_PLACES, _PLACES):
        kernel[row, column, :, :, y, x] = weight[:, :, _TAPS[row][y], _TAPS[column][x]].T
    return kernel.reshape(-1, *kernel.shape[3:])


def _make_upper_limit(height: int, width: int, channels: int) -> _Floats:
    """Returns the upper limit of blocks [1, height, width, 4 channels]: 0 outside the image."""
    mask = np.full((height, width, 2, 2, channels), _INSIDE, np.float32)
    mask[0, :, 0] = mask[-1, :, 1] = mask[:, 0, :, 0] = mask[:, -1, :, 1] = 0
    return mask.reshape(1, height, width, -1)


def _make_last_matrix(weight: _Floats) -> _Floats:
    """Returns the matrix [4 C_in, 16 C_out] of a 3x3 convolution [C_out, C_in, 3, 3] on blocks.

    A block of the image, rows 2j and 2j + 1, reads rows 2j - 1 to 2j + 2: blocks j and j + 1 of the
    input. Columns are ordered by which of the two it is, then by the pixel of the image's block.
    """
    colours, channels = weight.shape[:2]
    matrix = np.zeros((2, 2, channels, 2, 2, 2, 2, colours), np.float32)
    for read_y, read_x in itertools.product(range(4), range(4)):
        for row, column in _PLACES:
            y, x = read_y - row, read_x - column
            if y in range(3) and x in range(3):
                place = (read_y % 2, read_x % 2, slice(None), read_y // 2, read_x // 2, row, column)
                matrix[place] = weight[:, :, y, x].T
    return matrix.reshape(4 * channels, 16 * colours)


def _read_shape(value: onnx.ValueInfoProto) -> list[int | str]:
    dimensions = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dimensions]
