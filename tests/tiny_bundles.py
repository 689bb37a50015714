"""Tiny real bundles for tests: generators of a few hundred weights in the exporter's format.

The pixels depend visibly on the latent, the class or caption, and the truncation, and on nothing
else; the weights are the same on every machine. Imported by name: pyproject.toml puts tests/ on the
path.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from imagemint.v1 import manifest_pb2 as pb

MANIFEST_KEY = "imagemint.manifest"
DIGITS = tuple("0123456789")
WORDS = ("a", "person", "with", "red", "blue", "hair", "round", "glasses", "no", "grey-green")
MAX_WORDS = 8
EXAMPLES = ("a person with red hair", "blue hair no glasses", "round glasses")


def tiny_manifest(
    name="tiny",
    *,
    conditional=True,
    truncation=None,
    z_dim=8,
    size=(4, 6, 1),
    num_classes=10,
    captions=False,
):
    """Returns the manifest of a tiny bundle.

    Args:
        name: the model.
        conditional: whether it takes a class; a model with captions does not.
        truncation: None, "psi" or "threshold".
        z_dim: length of a latent.
        size: height, width and channels.
        num_classes: number of classes.
        captions: whether it takes a caption, in `WORDS`.
    """
    height, width, channels = size
    manifest = pb.BundleManifest(
        format_version=1,
        name=name,
        title=f"Tiny test model {name}",
        latent=pb.LatentSpec(z_dim=z_dim, distribution=pb.LATENT_DISTRIBUTION_NORMAL),
        class_labels=_labels(num_classes) if conditional and not captions else [],
        image=pb.ImageShape(height=height, width=width, channels=channels),
        precision=pb.PRECISION_FP32,
        license="Apache-2.0",
    )
    if captions:
        manifest.caption.CopyFrom(
            pb.CaptionSpec(vocabulary=WORDS, max_words=MAX_WORDS, examples=EXAMPLES)
        )
    if truncation is not None:
        psi = truncation == "psi"
        manifest.latent.truncation.CopyFrom(
            pb.TruncationRange(
                kind=pb.TRUNCATION_KIND_PSI if psi else pb.TRUNCATION_KIND_THRESHOLD,
                minimum=0.0 if psi else 0.25,
                maximum=1.0 if psi else 4.0,
            )
        )
    return manifest


def tiny_model(manifest, *, weights_seed=0):
    """Returns the ONNX model of a manifest: embedding, one dense layer, tanh, post-processing."""
    random = np.random.default_rng(weights_seed)
    z_dim, shape, num_classes = manifest.latent.z_dim, manifest.image, len(manifest.class_labels)
    psi = manifest.latent.truncation.kind == pb.TRUNCATION_KIND_PSI
    pixels = shape.height * shape.width * shape.channels
    captions = manifest.HasField("caption")
    fan_in = z_dim + (z_dim if num_classes or captions else 0)
    constants = {
        "weight": random.normal(0, 1.2 / fan_in**0.5, (fan_in, pixels)).astype(np.float32),
        "half": np.float32([127.5]),
        "low": np.float32(0),
        "high": np.float32(255),
        "nhwc": np.int64([-1, shape.height, shape.width, shape.channels]),
    }
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", z_dim])]
    nodes, h = [], "z"
    if num_classes:
        constants["embedding"] = random.normal(0, 1.5, (num_classes, z_dim)).astype(np.float32)
        constants["second_axis"] = np.int64([1])
        inputs.append(helper.make_tensor_value_info("class_id", TensorProto.INT64, ["N", 1]))
        nodes += [
            helper.make_node("Squeeze", ["class_id", "second_axis"], ["y"]),
            helper.make_node("Gather", ["embedding", "y"], ["c"]),
            helper.make_node("Concat", ["z", "c"], ["zc"], axis=1),
        ]
        h = "zc"
    if captions:
        words, length = len(manifest.caption.vocabulary), manifest.caption.max_words
        constants["words"] = random.normal(0, 1, (words + 1, z_dim)).astype(np.float32)
        constants["words"][0] = 0  # padding
        mixed = random.normal(0, 0.7, (length * z_dim, z_dim)).astype(np.float32)
        constants["mixed"] = mixed
        constants["row"] = np.int64([-1, length * z_dim])
        inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", length]))
        nodes += [
            helper.make_node("Gather", ["words", "tokens"], ["embedded"]),
            helper.make_node("Reshape", ["embedded", "row"], ["text"]),
            helper.make_node("MatMul", ["text", "mixed"], ["c"]),
            helper.make_node("Concat", ["z", "c"], ["zc"], axis=1),
        ]
        h = "zc"
    nodes.append(helper.make_node("Gemm", [h, "weight"], ["features"]))
    h = "features"
    if psi:
        inputs.append(helper.make_tensor_value_info("truncation", TensorProto.FLOAT, ["N", 1]))
        nodes.append(helper.make_node("Mul", [h, "truncation"], ["truncated"]))
        h = "truncated"
    nodes += [
        helper.make_node("Tanh", [h], ["x"]),
        helper.make_node("Mul", ["x", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["levels"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["levels", "nhwc"], ["image"]),
    ]
    image = helper.make_tensor_value_info(
        "image", TensorProto.UINT8, ["N", shape.height, shape.width, shape.channels]
    )
    initializers = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "generator", inputs, [image], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_bundle(
    repository: Path,
    name="tiny",
    version=1,
    *,
    weights_seed=0,
    edit_manifest: Callable[[pb.BundleManifest], object] | None = None,
    edit_model: Callable[[onnx.ModelProto], object] | None = None,
    **manifest_options,
) -> Path:
    """Writes `repository/name/version` and returns it.

    Args:
        repository: the model repository; made if missing.
        name: the model.
        version: its version, an integer (or any folder name, to be refused).
        weights_seed: other weights, other pixels.
        edit_manifest: changes the manifest after the graph was built from it.
        edit_model: changes the finished model; SHA256SUMS is computed afterwards.
        manifest_options: as `tiny_manifest` takes them.
    """
    manifest = tiny_manifest(name, **manifest_options)
    model = tiny_model(manifest, weights_seed=weights_seed)
    if edit_manifest is not None:
        edit_manifest(manifest)
    helper.set_model_props(model, {MANIFEST_KEY: json_format.MessageToJson(manifest)})
    if edit_model is not None:
        edit_model(model)
    directory = Path(repository) / name / str(version)
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (directory / "card.md").write_text(f"# {name}\n\nA model for tests.\n")
    write_sums(directory)
    return directory


def write_variant(
    directory: Path,
    name="int8",
    *,
    weights_seed=1,
    target=pb.TARGET_DEVICE_CPU,
    precision=pb.PRECISION_INT8,
    edit: Callable[[pb.BundleManifest], object] | None = None,
) -> Path:
    """Adds a variant with other weights to a bundle and returns its file.

    Args:
        directory: of the bundle.
        name: of the variant.
        weights_seed: decides its pixels.
        target: device that it is for.
        precision: that it claims.
        edit: changes the manifest of model.onnx before it is written.
    """
    model = onnx.load_model(directory / "model.onnx")
    manifest = json_format.Parse(model.metadata_props[0].value, pb.BundleManifest())
    own = pb.BundleManifest()
    own.CopyFrom(manifest)
    own.ClearField("variants")
    own.precision = precision
    other = tiny_model(own, weights_seed=weights_seed)
    helper.set_model_props(other, {MANIFEST_KEY: json_format.MessageToJson(own)})
    path = directory / f"{name}.onnx"
    path.write_bytes(other.SerializeToString(deterministic=True))
    manifest.variants.add(
        name=name,
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        precision=precision,
        target=target,
    )
    if edit is not None:
        edit(manifest)
    helper.set_model_props(model, {MANIFEST_KEY: json_format.MessageToJson(manifest)})
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    write_sums(directory)
    return path


def write_each_kind(repository: Path) -> None:
    """Writes one model of each kind. The model `digits` has classes, and others differ from it."""
    write_bundle(repository, "digits")
    write_bundle(repository, "plain", conditional=False, size=(5, 3, 3))
    write_bundle(repository, "bounded", truncation="threshold")
    write_bundle(repository, "styled", truncation="psi")
    write_bundle(repository, "people", captions=True, truncation="threshold")


def write_critic(
    directory: Path,
    scores=("class_confidence", "realness", "training_distance"),
    *,
    edit: Callable[[pb.BundleManifest], object] | None = None,
) -> Path:
    """Adds a critic to a bundle and returns its file.

    The confidence is the mean brightness m of the image, 0 to 1, for even classes, and 1 - m for
    odd ones; the realness is 10 m, of at most 10, and the distance 2 m.

    Args:
        directory: of the bundle.
        scores: the outputs.
        edit: changes the manifest of model.onnx before it is written.
    """
    model = onnx.load_model(directory / "model.onnx")
    manifest = json_format.Parse(model.metadata_props[0].value, pb.BundleManifest())
    path = directory / "critic.onnx"
    path.write_bytes(_tiny_critic(manifest, scores).SerializeToString(deterministic=True))
    critic = pb.Critic(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    for name in scores:
        getattr(critic, name).SetInParent()
    if "realness" in scores:
        critic.realness.maximum, critic.realness.shift = 10.0, -5.0
    manifest.critic.CopyFrom(critic)
    if edit is not None:
        edit(manifest)
    helper.set_model_props(model, {MANIFEST_KEY: json_format.MessageToJson(manifest)})
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    write_sums(directory)
    return path


def _tiny_critic(manifest, scores):
    shape = manifest.image
    constants = {
        "levels": np.float32([255]),
        "axes": np.int64([1, 2, 3]),
        "ten": np.float32([10]),
        "two": np.float32([2]),
        "zero": np.float32([0]),
        "second": np.int64([1]),
        "parity": np.int64([2]),
    }
    inputs = [
        helper.make_tensor_value_info(
            "image", TensorProto.UINT8, ["N", shape.height, shape.width, shape.channels]
        )
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "levels"], ["shares"]),
        helper.make_node("ReduceMean", ["shares", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "ten"], ["realness"]),
        helper.make_node("Mul", ["mean", "two"], ["training_distance"]),
    ]
    if manifest.class_labels:
        inputs.append(helper.make_tensor_value_info("class_id", TensorProto.INT64, ["N", 1]))
        nodes += [
            helper.make_node("Squeeze", ["class_id", "second"], ["y"]),
            helper.make_node("Mod", ["y", "parity"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["odd_float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["odd_float", "mean"], ["signed"]),
            helper.make_node("Abs", ["signed"], ["class_confidence"]),
        ]
    made = {name for node in nodes for name in node.output}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])
        for name in scores
        if name in made
    ]
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used]
    graph = helper.make_graph(nodes, "critic", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_sums(directory: Path) -> None:
    """(Re)writes SHA256SUMS over every other file of a bundle."""
    files = sorted(p for p in directory.iterdir() if p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (directory / "SHA256SUMS").write_text("".join(lines))


def sign(key, directory: Path) -> None:
    """Signs a bundle with a SigningKey, without checking it."""
    key.sign(directory, (directory / "SHA256SUMS").read_bytes())


def _labels(num_classes):
    return DIGITS if num_classes == 10 else [f"class {k}" for k in range(num_classes)]
