"""Writes bundles for benchmarks: the reference generator, and a model that computes nothing.

Their weights are random, because speed does not depend on the pictures.

    python benchmarks/overhead/bundles.py DIR
    make bench BENCH_ARGS="--repository DIR --model reference"
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper

from imagemint.v1 import manifest_pb2

_SIDE = 28
_Z_DIM = 128
_EMBEDDING = 64
_DIGITS = tuple("0123456789")
_Array = npt.NDArray[np.generic]


def write_reference(repository: Path, name: str = "reference") -> Path:
    """Writes the conditional DCGAN of the project's speed targets; returns its folder.

    z 128 beside a 64-d class embedding, 256x7x7, two transposed convolutions of stride 2 to 64
    channels at 28x28, a 3x3 convolution to gray: 3.1 M weights, 108 MFLOP an image, float32.
    """
    random = np.random.default_rng(0)

    def draw_weights(*shape: int, fan_in: int) -> _Array:
        return random.normal(0, fan_in**-0.5, shape).astype(np.float32)

    trunk: dict[str, Any] = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    constants: dict[str, _Array] = {
        "axis": np.array([1], np.int64),
        "embedding": draw_weights(len(_DIGITS), _EMBEDDING, fan_in=1),
        "project": draw_weights(_Z_DIM + _EMBEDDING, 256 * 7 * 7, fan_in=_Z_DIM + _EMBEDDING),
        "project_bias": np.zeros(256 * 7 * 7, np.float32),
        "square": np.array([-1, 256, 7, 7], np.int64),
        "up_1": draw_weights(256, 128, 4, 4, fan_in=4 * 256),
        "up_1_bias": np.zeros(128, np.float32),
        "up_2": draw_weights(128, 64, 4, 4, fan_in=4 * 128),
        "up_2_bias": np.zeros(64, np.float32),
        "gray": draw_weights(1, 64, 3, 3, fan_in=9 * 64),
        "gray_bias": np.zeros(1, np.float32),
        "half": np.array(127.5, np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("Squeeze", ["class_id", "axis"], ["y"]),
        helper.make_node("Gather", ["embedding", "y"], ["c"]),
        helper.make_node("Concat", ["z", "c"], ["zc"], axis=1),
        helper.make_node("Gemm", ["zc", "project", "project_bias"], ["flat"]),
        helper.make_node("Reshape", ["flat", "square"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["h1"]),
        helper.make_node("ConvTranspose", ["h1", "up_1", "up_1_bias"], ["h2"], **trunk),
        helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("ConvTranspose", ["h3", "up_2", "up_2_bias"], ["h4"], **trunk),
        helper.make_node("Relu", ["h4"], ["h5"]),
        helper.make_node(
            "Conv", ["h5", "gray", "gray_bias"], ["h6"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Tanh", ["h6"], ["x"]),
        helper.make_node("Mul", ["x", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["levels"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["levels"], ["image"], perm=[0, 2, 3, 1]),
    ]
    return _write(repository, name, nodes, constants)


def write_empty(repository: Path, name: str = "empty") -> Path:
    """Writes a model that computes nothing, every image alike; returns its folder.

    It takes the inputs of the reference generator and gives images of the same size, so that all
    that a call costs is what surrounds the model.
    """
    constants: dict[str, _Array] = {
        "pixel": np.full((1, _SIDE, _SIDE, 1), 127, np.uint8),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "rest": np.array([_SIDE, _SIDE, 1], np.int64),
    }
    nodes = [
        # The batch is as large as class_id; z is not looked at.
        helper.make_node("Shape", ["class_id"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "one"], ["count"]),
        helper.make_node("Concat", ["count", "rest"], ["sizes"], axis=0),
        helper.make_node("Expand", ["pixel", "sizes"], ["image"]),
    ]
    return _write(repository, name, nodes, constants)


def _write(
    repository: Path, name: str, nodes: list[onnx.NodeProto], constants: dict[str, _Array]
) -> Path:
    manifest = manifest_pb2.BundleManifest(
        format_version=1,
        name=name,
        title=f"Benchmark model {name}",
        latent=manifest_pb2.LatentSpec(
            z_dim=_Z_DIM, distribution=manifest_pb2.LATENT_DISTRIBUTION_NORMAL
        ),
        class_labels=_DIGITS,
        image=manifest_pb2.ImageShape(height=_SIDE, width=_SIDE, channels=1),
        precision=manifest_pb2.PRECISION_FP32,
        license="Apache-2.0",
    )
    graph = helper.make_graph(
        nodes,
        "generator",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", _Z_DIM]),
            helper.make_tensor_value_info("class_id", TensorProto.INT64, ["N", 1]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", _SIDE, _SIDE, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"imagemint.manifest": json_format.MessageToJson(manifest)})
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (directory / "card.md").write_text(f"# {name}\n\nRandom weights, for benchmarks.\n")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(directory.iterdir())
    ]
    (directory / "SHA256SUMS").write_text("".join(lines))
    return directory


def main() -> None:
    """Writes both into the model repository that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("repository", type=Path)
    repository = parser.parse_args().repository
    for written in (write_reference(repository), write_empty(repository)):
        print(written)


if __name__ == "__main__":
    main()
