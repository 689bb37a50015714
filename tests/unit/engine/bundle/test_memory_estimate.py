"""Tests of imagemint.engine.bundle.memory_estimate."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundles import write_bundle

from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.memory_estimate import MOST_NODES, TooLarge, count_nodes, estimate
from imagemint.engine.errors import BundleRefused
from imagemint.engine.onnx.backend import OnnxBackend


def make_image_model(nodes, *, functions=(), constants=(), width=8):
    """Returns a model whose last node computes `last` from `z`."""
    nodes = [*nodes, helper.make_node("Cast", ["last"], ["image"], to=TensorProto.UINT8)]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", width])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, None)
    graph = helper.make_graph(nodes, "g", [z], [image], list(constants))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def make_bomb(levels, width):
    """Returns nested functions of `width` calls each: `width` to the power of `levels` nodes."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    functions = []
    for level in range(levels):
        names = ["x", *(f"t{i}" for i in range(width - 1)), "y"]
        operator, domain = (f"F{level - 1}", "com.microsoft") if level else ("Tanh", "")
        nodes = [
            helper.make_node(operator, [names[i]], [names[i + 1]], domain=domain)
            for i in range(width)
        ]
        functions.append(
            helper.make_function("com.microsoft", f"F{level}", ["x"], ["y"], nodes, opsets)
        )
    call = helper.make_node(f"F{levels - 1}", ["z"], ["last"], domain="com.microsoft")
    return make_image_model([call], functions=functions)


def make_chain(count, operator="Identity"):
    """Returns a model of `count` nodes in a row."""
    names = ["z", *(f"t{i}" for i in range(count - 1)), "last"]
    nodes = [helper.make_node(operator, [names[i]], [names[i + 1]]) for i in range(count)]
    return make_image_model(nodes)


def test_nodes_of_functions_are_counted_per_call():
    """The nodes of a function count as often as the function is called."""
    assert count_nodes(make_bomb(3, 4)) == 4**3 + 1


@pytest.mark.parametrize("model", [make_bomb(8, 12), make_bomb(60, 2), make_chain(MOST_NODES + 1)])
def test_graph_beyond_the_limit_is_refused(tmp_path, model):
    """Counting refuses the graph before the checker, shape inference or the runtime reads it."""

    def edit(tiny):
        del tiny.graph.node[:]
        tiny.graph.node.extend(model.graph.node)
        tiny.functions.extend(model.functions)

    directory = write_bundle(tmp_path, edit_model=edit)
    with pytest.raises(BundleRefused, match=f"its graph is too large: more than {MOST_NODES:,}"):
        read_bundle(directory)


def test_many_default_attributes_are_refused(tmp_path):
    """Default attributes of functions are parts of the file, as are those of nodes."""

    def edit(tiny):
        opsets = [helper.make_opsetid("", 18)]
        node = helper.make_node("Identity", ["x"], ["y"])
        function = helper.make_function("com.microsoft", "F", ["x"], ["y"], [node], opsets)
        default = helper.make_attribute("a", 1)
        function.attribute_proto.extend([default] * 4 * MOST_NODES)
        tiny.functions.append(function)

    directory = write_bundle(tmp_path, edit_model=edit)
    with pytest.raises(BundleRefused, match="more than 200,000 nodes and attributes"):
        read_bundle(directory)


def test_recursive_function_is_refused():
    """A function that calls itself would never end."""
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    call = helper.make_node("F", ["x"], ["y"], domain="com.microsoft")
    function = helper.make_function("com.microsoft", "F", ["x"], ["y"], [call], opsets)
    call = helper.make_node("F", ["z"], ["last"], domain="com.microsoft")
    with pytest.raises(TooLarge, match="deep"):
        count_nodes(make_image_model([call], functions=[function]))


def test_estimate_of_a_known_graph():
    """The estimate of a matrix product has its operations and the bytes alive at once."""
    weight = numpy_helper.from_array(np.zeros((8, 100), np.float32), "w")
    found = estimate(
        make_image_model([helper.make_node("MatMul", ["z", "w"], ["last"])], constants=[weight])
    )
    assert found.is_complete
    assert found.row_bytes == 100 * 4 + 100  # the floats and the bytes that they are cast to
    assert found.row_flops >= 2 * 8 * 100
    assert (found.constant_bytes, found.constant_flops, found.mixing) == (0, 0, ())


def test_folded_constants_are_counted_separately():
    """The cost of constants, which a session folds once, is separate from the cost of a run."""
    side = numpy_helper.from_array(np.int64([3000, 3000]), "side")
    nodes = [
        helper.make_node("ConstantOfShape", ["side"], ["c0"]),
        helper.make_node("MatMul", ["c0", "c0"], ["c1"]),
        helper.make_node("ReduceSum", ["c1"], ["sum"], keepdims=0),
        helper.make_node("Add", ["z", "sum"], ["last"]),
    ]
    found = estimate(make_image_model(nodes, constants=[side]))
    assert found.constant_bytes == 2 * 4 * 3000**2 + 4
    assert found.constant_flops > 2 * 3000**3
    assert found.row_bytes < 1000


@pytest.mark.parametrize("operator", ["Concat", "Gather", "Unsqueeze"])
def test_growing_shapes_are_not_followed(operator):
    """Shape inference stops at axes and sizes that double with each node.

    The estimate is incomplete.
    """
    start = numpy_helper.from_array(np.ones((1, 1) if operator == "Gather" else 4, np.int64), "g0")
    nodes = []
    for i in range(40):
        inputs = [f"g{i}", "axes"] if operator == "Unsqueeze" else [f"g{i}", f"g{i}"]
        options = {"axis": 0} if operator == "Concat" else {}
        nodes.append(helper.make_node(operator, inputs, [f"g{i + 1}"], **options))
    nodes.append(helper.make_node("Expand", ["z", "g40"], ["last"]))
    axes = numpy_helper.from_array(np.int64([0, 1, 2]), "axes")
    assert not estimate(make_image_model(nodes, constants=[start, axes])).is_complete


LONG = 2**20
LONG_VECTORS = {
    "declared": [("ConstantOfShape", ["long"], "x")],
    "computed": [("Mul", ["half", "half"], "s"), ("ConstantOfShape", ["s"], "x")],
    "squeezed": [("ConstantOfShape", ["column"], "c"), ("Squeeze", ["c"], "x")],
    "flattened": [("ConstantOfShape", ["square"], "c"), ("Reshape", ["c", "any"], "x")],
    "reshaped": [("Reshape", ["z", "long"], "x")],
    "expanded": [("Expand", ["zero", "long"], "x")],
    "tiled": [("Tile", ["half", "long"], "x")],
    "counted": [("Range", ["zero", "long_scalar", "one"], "x")],
}


@pytest.mark.parametrize("nodes", LONG_VECTORS.values(), ids=LONG_VECTORS)
def test_long_vectors_are_not_followed(nodes):
    """Shape inference stops at a vector that could be a shape of a million axes.

    It would need hundreds of megabytes for such a file of some bytes.
    """
    constants = {
        "long": [LONG],
        "half": [2**10],
        "column": [LONG, 1],
        "square": [2**10, 2**10],
        "any": [-1],
        "long_scalar": LONG,
        "zero": 0,
        "one": 1,
    }
    graph = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes]
    graph += [
        helper.make_node("Concat", ["x", "x"], ["long_x"], axis=0),
        helper.make_node("Cast", ["long_x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
        helper.make_node("Add", ["z", "sum"], ["last"]),
    ]
    tensors = [numpy_helper.from_array(np.int64(v), name) for name, v in constants.items()]
    assert not estimate(make_image_model(graph, constants=tensors)).is_complete


def test_joined_feature_maps_are_followed():
    """Tensors of several axes are no shapes, however many of them are joined."""
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    nodes, last = [], "z"
    for i in range(40):
        nodes.append(helper.make_node("Concat", [last, "z", last], [f"c{i}"], axis=0))
        nodes.append(helper.make_node("Slice", [f"c{i}", "zero", "one", "zero"], [f"s{i}"]))
        nodes.append(helper.make_node("Gemm", [f"s{i}", "w"], [f"g{i}"]))
        last = f"g{i}"
    nodes.append(helper.make_node("Add", [last, "w"], ["last"]))
    tensors = [weight]
    tensors += [numpy_helper.from_array(np.int64([v]), n) for n, v in (("zero", 0), ("one", 1))]
    assert estimate(make_image_model(nodes, constants=tensors)).is_complete


@pytest.mark.parametrize(
    ("nodes", "mixing"),
    [
        ([("DynamicQuantizeLinear", ["z"], ["q", "s", "p"], {})], "DynamicQuantizeLinear"),
        ([("ReduceMean", ["z", "rows"], ["m"], {})], "ReduceMean"),
        ([("ReduceMax", ["z"], ["m"], {})], "ReduceMax"),
        ([("Softmax", ["z"], ["m"], {"axis": 0})], "Softmax"),
        ([("CumSum", ["z", "first"], ["m"], {})], "CumSum"),
        ([("Gemm", ["z", "z"], ["m"], {"transA": 1})], "Gemm"),
        ([("Reshape", ["z", "flat"], ["f"], {}), ("Softmax", ["f"], ["m"], {})], "Softmax"),
        (
            [("BatchNormalization", ["z", "w8", "w8", "w8", "w8"], ["n"], {"training_mode": 1})],
            "BatchNormalization",
        ),
        ([("ReduceMean", ["z", "columns"], ["m"], {})], None),
        ([("Softmax", ["z"], ["m"], {})], None),
        ([("BatchNormalization", ["z", "w8", "w8", "w8", "w8"], ["n"], {})], None),
        ([("Gemm", ["z", "w88"], ["m"], {})], None),
    ],
)
def test_operators_that_mix_rows_are_listed(nodes, mixing):
    """An operator mixes rows if it works along the axis of the batch, which is traced by shape."""
    constants = {
        "rows": np.int64([0]),
        "columns": np.int64([1]),
        "first": np.int64(0),
        "flat": np.int64([1, -1]),
        "w8": np.ones(8, np.float32),
        "w88": np.ones((8, 8), np.float32),
    }
    made = [helper.make_node(kind, i, o, **options) for kind, i, o, options in nodes]
    made.append(helper.make_node("Identity", ["z"], ["last"]))
    model = make_image_model(
        made, constants=[numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    assert estimate(model).mixing == ((mixing,) if mixing else ())


def enlarge(side, channels):
    """Returns an edit of a tiny model that enlarges its image to `side` inside the graph."""

    def edit(model):
        graph = model.graph
        shape = next(t for t in graph.initializer if t.name == "nhwc")
        shape.CopyFrom(numpy_helper.from_array(np.int64([-1, channels, 2, 2]), "nhwc"))
        factor = np.float32([1, 1, side / 2, side / 2])
        graph.initializer.append(numpy_helper.from_array(factor, "factor"))
        tail = [node for node in graph.node if node.op_type in ("Cast", "Reshape")]
        for node in tail:
            graph.node.remove(node)
        graph.node.extend(
            [
                helper.make_node("Reshape", ["rounded", "nhwc"], ["small"]),
                helper.make_node("Resize", ["small", "", "factor"], ["large"], mode="nearest"),
                helper.make_node("Cast", ["large"], ["levels"], to=TensorProto.UINT8),
                helper.make_node("Transpose", ["levels"], ["image"], perm=[0, 2, 3, 1]),
            ]
        )
        for dim, size in zip(
            graph.output[0].type.tensor_type.shape.dim[1:], (side, side, channels), strict=True
        ):
            dim.dim_value = size
        manifest = json.loads(model.metadata_props[0].value)
        manifest["image"] = {"height": side, "width": side, "channels": channels}
        model.metadata_props[0].value = json.dumps(manifest)

    return edit


def test_huge_image_is_refused_before_a_run(tmp_path):
    """The error states the estimate for an 8192x8192 image and the setting that limits it."""
    directory = write_bundle(tmp_path, size=(2, 2, 3), edit_model=enlarge(8192, 3))
    bundle = read_bundle(directory)
    assert bundle.estimate.row_bytes > 8192**2 * 3 * 4
    with pytest.raises(BundleRefused, match=r"one image takes .* MiB .*max_image_memory_bytes"):
        OnnxBackend(bundle, device="cpu")


def test_large_images_are_probed_in_small_batches(tmp_path):
    """Batches stay within the memory limit, larger ones are split, and rows have equal bytes."""
    directory = write_bundle(
        tmp_path, size=(2, 2, 1), conditional=False, edit_model=enlarge(2048, 1)
    )
    backend = OnnxBackend(read_bundle(directory), device="cpu")
    most = backend.findings.most_rows
    assert 1 < most <= 2**28 // (2048**2 * 4)
    z = np.random.default_rng(0).standard_normal((most + 1, 8), np.float32)
    whole = backend.run(Batch(z))
    assert whole.shape == (most + 1, 2048, 2048, 1)
    assert backend.run(Batch(z[-1:])).tobytes() == whole[-1:].tobytes()
