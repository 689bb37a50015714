"""Fixtures: edits of a model whose output depends on the size of the batch."""

import pytest
from onnx import TensorProto, helper


def _add_power_of_rows(exponent):
    """Returns an edit that adds the number of rows to the power of `exponent` to the features."""

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
def batch_dependence():
    """Returns a function that makes an edit. The output then depends on rows to a power."""
    return _add_power_of_rows
