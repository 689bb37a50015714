"""Graphs that look at their batch, which no exporter writes."""

import pytest
from onnx import TensorProto, helper


def _features_plus(exponent):
    """Adds to the features the number of rows to the power of `exponent`."""

    def edit(model):
        at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Tanh")
        model.graph.node[at].input[0] = "disturbed"
        value = helper.make_tensor("e", TensorProto.FLOAT, [], [exponent])
        nodes = [
            helper.make_node("Shape", ["z"], ["n"], end=1),
            helper.make_node("Cast", ["n"], ["rows"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["e"], value=value),
            helper.make_node("Pow", ["rows", "e"], ["shift"]),
            helper.make_node("Add", ["features", "shift"], ["disturbed"]),
        ]
        for node in reversed(nodes):
            model.graph.node.insert(at, node)

    return edit


@pytest.fixture
def looks_at_batch():
    """Makes edits of a model: its floats then depend on rows to the power of a number."""
    return _features_plus
