"""Tiny real bundles that translate images: two 3x3 convolutions, with or without upscaling.

A pixel of the output depends on the source within `RADIUS` pixels, visibly on each channel, frame
and the mask, and on latent and class where there are any. Imported by name, like tiny_bundles.
"""

from pathlib import Path

import numpy as np
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper
from tiny_bundles import DIGITS, MANIFEST_KEY, write_sums

from imagemint.v1 import manifest_pb2 as pb

RADIUS = 2
_FEATURES = 8


def translator_manifest(
    name="translator",
    *,
    size=None,
    largest=(32, 48),
    step=4,
    tiled=True,
    channels=3,
    frames=1,
    mask=False,
    scale=1,
    z_dim=0,
    conditional=False,
):
    """Returns the manifest of a tiny translator.

    Args:
        name: the model.
        size: height and width of a fixed size; None for a free size.
        largest: height and width of the largest source of one pass, if the size is free.
        step: height and width are multiples of it, if the size is free.
        tiled: whether larger sources are translated in tiles, if the size is free.
        channels: channels of one frame, and of the output.
        frames: frames of a source.
        mask: whether a source has a mask.
        scale: output pixels per source pixel along a side.
        z_dim: length of a latent; 0 for none. A model with a latent is not tiled.
        conditional: whether it takes a class.
    """
    height, width = size or largest
    source = pb.SourceSpec(channels=channels, frames=frames, mask=mask, scale=scale)
    if size is not None:
        source.height, source.width = size
    else:
        source.max_height, source.max_width = largest
        source.step = step
        if tiled and not z_dim:
            source.tiled, source.overlap = True, RADIUS
    manifest = pb.BundleManifest(
        format_version=1,
        name=name,
        title=f"Tiny translator {name}",
        class_labels=DIGITS if conditional else (),
        image=pb.ImageShape(height=height * scale, width=width * scale, channels=channels),
        precision=pb.PRECISION_FP32,
        license="Apache-2.0",
        source=source,
    )
    if z_dim:
        manifest.latent.z_dim = z_dim
        manifest.latent.distribution = pb.LATENT_DISTRIBUTION_NORMAL
    return manifest


def translator_model(manifest, *, weights_seed=0):
    """Returns the ONNX model of a manifest."""
    random = np.random.default_rng(weights_seed)
    source, channels = manifest.source, manifest.image.channels
    depth = source.frames * source.channels + source.mask
    outputs = channels * source.scale**2
    sides = [source.height or "H", source.width or "W"]
    out_sides = [source.height * source.scale or "H2", source.width * source.scale or "W2"]

    def kernel(rows, columns):
        spread = 1.5 / (9 * columns) ** 0.5
        return random.normal(0, spread, (rows, columns, 3, 3)).astype(np.float32)

    constants = {
        "first": kernel(_FEATURES, depth),
        "second": kernel(outputs, _FEATURES),
        "level": np.float32(1 / 127.5),
        "half": np.float32(127.5),
        "one": np.float32(1),
        "low": np.float32(0),
        "high": np.float32(255),
    }
    inputs = [helper.make_tensor_value_info("source", TensorProto.UINT8, ["N", *sides, depth])]
    nodes = [
        helper.make_node("Cast", ["source"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "level"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["x"]),
        helper.make_node("Conv", ["x", "first"], ["conv"], pads=[1, 1, 1, 1]),
    ]
    h = "conv"
    if manifest.latent.z_dim:
        z_dim = manifest.latent.z_dim
        constants["mixed"] = random.normal(0, 0.5, (z_dim, _FEATURES)).astype(np.float32)
        constants["spatial"] = np.int64([2, 3])
        inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", z_dim]))
        nodes += [
            helper.make_node("MatMul", ["z", "mixed"], ["style"]),
            helper.make_node("Unsqueeze", ["style", "spatial"], ["style_map"]),
            helper.make_node("Add", [h, "style_map"], ["styled"]),
        ]
        h = "styled"
    if manifest.class_labels:
        shape = (len(manifest.class_labels), _FEATURES)
        constants["embedding"] = random.normal(0, 0.7, shape).astype(np.float32)
        constants["last"] = np.int64([1])
        constants["planar"] = np.int64([2, 3])
        inputs.append(helper.make_tensor_value_info("class_id", TensorProto.INT64, ["N", 1]))
        nodes += [
            helper.make_node("Squeeze", ["class_id", "last"], ["y"]),
            helper.make_node("Gather", ["embedding", "y"], ["label"]),
            helper.make_node("Unsqueeze", ["label", "planar"], ["label_map"]),
            helper.make_node("Add", [h, "label_map"], ["labelled"]),
        ]
        h = "labelled"
    nodes += [
        helper.make_node("Tanh", [h], ["features"]),
        helper.make_node("Conv", ["features", "second"], ["deep"], pads=[1, 1, 1, 1]),
    ]
    h = "deep"
    if source.scale > 1:
        nodes.append(helper.make_node("DepthToSpace", [h], ["large"], blocksize=source.scale))
        h = "large"
    nodes += [
        helper.make_node("Tanh", [h], ["y_float"]),
        helper.make_node("Mul", ["y_float", "half"], ["spread"]),
        helper.make_node("Add", ["spread", "half"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["image"], perm=[0, 2, 3, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *out_sides, channels])
    initializers = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "translator", inputs, [image], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_translator(
    repository: Path,
    name="translator",
    version=1,
    *,
    weights_seed=0,
    edit_manifest=None,
    edit_model=None,
    **manifest_options,
) -> Path:
    """Writes `repository/name/version` and returns it; the options are those of the manifest.

    Args:
        repository: the model repository; made if missing.
        name: the model.
        version: its version.
        weights_seed: other weights, other pixels.
        edit_manifest: changes the manifest after the graph was built from it.
        edit_model: changes the finished model.
        manifest_options: as `translator_manifest` takes them.
    """
    manifest = translator_manifest(name, **manifest_options)
    model = translator_model(manifest, weights_seed=weights_seed)
    if edit_manifest is not None:
        edit_manifest(manifest)
    helper.set_model_props(model, {MANIFEST_KEY: json_format.MessageToJson(manifest)})
    if edit_model is not None:
        edit_model(model)
    directory = Path(repository) / name / str(version)
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (directory / "card.md").write_text(f"# {name}\n\nA translator for tests.\n")
    write_sums(directory)
    return directory
