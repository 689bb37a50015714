"""Edits that make a tiny bundle slow or expensive to load. Imported by name, like tiny_bundles."""

import numpy as np
from onnx import helper, numpy_helper


def folding(side, products):
    """Returns an edit with products of constants of `side` by `side`, which a session folds.

    Of 20,000 one product takes minutes, in which nothing can interrupt the runtime.
    """

    def edit(model):
        model.graph.initializer.append(numpy_helper.from_array(np.int64([side, side]), "side"))
        nodes = [helper.make_node("ConstantOfShape", ["side"], ["c0"])]
        nodes += [
            helper.make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(products)
        ]
        nodes.append(helper.make_node("ReduceSum", [f"c{products}"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Add", ["z", "sum"], ["z_and_sum"]))
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == "z":
                    node.input[place] = "z_and_sum"
        for node in reversed(nodes):
            model.graph.node.insert(0, node)

    return edit


def unknown(model):
    """Adds an operator that the estimate does not know and that loads and runs."""
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    node = helper.make_node("QuickGelu", ["x"], ["gelu"], domain="com.microsoft")
    place = list(model.graph.node).index(tanh)
    model.graph.node[place + 1].input[0] = "gelu"
    model.graph.node.insert(place + 1, node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
