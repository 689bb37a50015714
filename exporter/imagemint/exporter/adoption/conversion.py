"""Converts a foreign model to our operator set."""

import onnx
from onnx import helper

from imagemint.exporter.graph import OPSET

_FIRST_WITH_COORDINATES = 11  # the operator set in which Resize got its coordinate transformation


def get_operator_set(model: onnx.ModelProto) -> int:
    """Returns the version of the standard operators; our own if the model uses none."""
    versions = [o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}]
    return max(versions, default=OPSET)


def convert_operator_set(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model at our operator set, or unchanged if it has that or a newer one.

    The converter of onnx is not exact for each operator, so compare the images.

    Raises:
        RuntimeError: an operator cannot be converted.
        ValueError: the same.
    """
    if (version := get_operator_set(model)) >= OPSET:
        return model
    converted = onnx.version_converter.convert_version(model, OPSET)
    if version < _FIRST_WITH_COORDINATES:
        _set_coordinates(converted.graph)
    return converted


def _set_coordinates(graph: onnx.GraphProto) -> None:
    """Gives Resize the coordinates of Upsample and of its own first version.

    The converter leaves the default of newer versions, half pixels, which moves the image.
    """
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {"coordinate_transformation_mode": "asymmetric"}
        if found.get("mode", b"nearest") == b"nearest":
            attributes["nearest_mode"] = "floor"
        kept = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
