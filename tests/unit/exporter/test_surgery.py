"""Tests of imagemint.exporter.surgery on small hand-written graphs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from imagemint.exporter.surgery import fold_batch_norm, strip

CHANNELS, SIDE, K = 3, 2, 5


def make_projection(
    *,
    trans_b=1,
    bias=True,
    alpha=1.0,
    tap=None,
    epsilon=0.01,
    shape=(-1, CHANNELS, SIDE, SIDE),
    dtype=np.float32,
):
    """Returns Gemm, Reshape to [N, 3, 2, 2] or another shape, and BatchNormalization.

    `tap` is a value that is read once more: `h`, of Gemm, or `r`, of Reshape.
    """
    random = np.random.default_rng(1)
    width = CHANNELS * SIDE * SIDE
    constants = {
        "weight": random.normal(size=(width, K) if trans_b else (K, width)),
        "bias": random.normal(size=width),
        "gamma": random.normal(size=CHANNELS),
        "beta": random.normal(size=CHANNELS),
        "mean": random.normal(size=CHANNELS),
        "variance": random.uniform(0.1, 2, size=CHANNELS),
    }
    initializers = [numpy_helper.from_array(v.astype(dtype), n) for n, v in constants.items()]
    initializers.append(numpy_helper.from_array(np.int64(shape), "shape"))
    gemm_inputs = ["z", "weight", *(["bias"] if bias else [])]
    statistics = ["gamma", "beta", "mean", "variance"]
    nodes = [
        helper.make_node("Gemm", gemm_inputs, ["h"], transB=trans_b, alpha=alpha),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("BatchNormalization", ["r", *statistics], ["b"], epsilon=epsilon),
        helper.make_node("Relu", ["b"], ["x"]),
    ]
    rows = [None] * (len(shape) - 1)
    outputs = {"x": rows} | ({} if tap is None else {tap: [None] if tap == "h" else rows})
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("z", element, ["batch", K])],
        [
            helper.make_tensor_value_info(name, element, ["batch", *sides])
            for name, sides in outputs.items()
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _run(model):
    z = np.random.default_rng(2).normal(size=(4, K)).astype(np.float32)
    return ReferenceEvaluator(model).run(None, {"z": z})[0]


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"epsilon": None}, {"shape": (0, 3, -1)}, {"shape": (4, 3, 4)}]
)
def test_folding_keeps_the_values(trans_b, bias, options):
    """Folding removes the node and its constants and keeps the output within rounding."""
    model = make_projection(trans_b=trans_b, bias=bias, **options)
    before = _run(model)
    fold_batch_norm(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Reshape", "Relu"]
    assert not {"gamma", "mean", "weight"} & {t.name for t in model.graph.initializer}
    np.testing.assert_allclose(_run(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"tap": "h"},
        {"tap": "r"},
        {"alpha": 2.0},
        {"shape": (-1, CHANNELS)},
        {"shape": (-1, CHANNELS, 2)},
        {"dtype": np.float16},
    ],
)
def test_unsupported_patterns_are_not_folded(options):
    """Nothing changes if a fold would give other values, or weights of another type.

    Another node reads the value, the Gemm has a factor, or a row becomes several rows.
    """
    model = make_projection(**options)
    before = model.SerializeToString(deterministic=True)
    fold_batch_norm(model)
    assert len(model.graph.node) == 4
    assert model.SerializeToString(deterministic=True) == before


def test_shared_weights_are_folded_for_each_reader():
    """Two projections with the same weights get weights of their own, each with its statistics."""
    model = make_projection()
    graph = model.graph
    for node in list(graph.node):
        double = graph.node.add()
        double.CopyFrom(node)
        double.input[0] += "" if node.op_type == "Gemm" else "2"
        double.output[0] += "2"
        if node.op_type == "BatchNormalization":
            double.input[1:3] = reversed(double.input[1:3])
    graph.node.append(helper.make_node("Sub", ["x", "x2"], ["both"]))
    graph.output[0].name = "both"
    before = _run(model)
    fold_batch_norm(model)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert np.abs(before).max() > 1
    np.testing.assert_allclose(_run(model), before, rtol=1e-5, atol=1e-5)


def test_strip_removes_all_metadata():
    """Metadata and doc strings are removed everywhere, and the batch axis gets its name."""
    model = make_projection()
    model.producer_name, model.producer_version, model.doc_string = "pytorch", "2", "/home/me"
    model.opset_import.append(helper.make_opsetid("pkg.torch", 1))
    for holder in (
        model,
        model.graph,
        model.graph.node[0],
        model.graph.input[0],
        model.graph.initializer[0],
    ):
        holder.doc_string = "/home/me/secret.py"
        holder.metadata_props.add(key="stack_trace", value="/home/me/secret.py")
    model.graph.node[0].attribute[0].doc_string = "/home/me/secret.py"
    strip(model)
    assert b"secret" not in model.SerializeToString()
    assert b"stack_trace" not in model.SerializeToString()
    assert (model.producer_name, model.producer_version) == ("imagemint", "")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert [opset.domain for opset in model.opset_import] == [""]


def test_dynamic_axes_of_other_lengths_have_other_names():
    """One name for several axes would say that they have the same length."""
    source, image = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, sides)
        for name, sides in (
            ("source", ["s7", "s1", "s2", 3]),
            ("image", ["s7", "2*s1", "s1 + s2", None]),
        )
    )
    model = helper.make_model(helper.make_graph([], "g", [source], [image]))
    for _ in range(2):  # graphs are stripped again after each conversion
        strip(model)
        axes = [
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        ]
        assert axes == [["N", "H", "W", 3], ["N", "2*H", "H + W", 0]]
