"""The graph files of a bundle under construction."""

import hashlib
from pathlib import Path

import onnx
from google.protobuf import json_format

from imagemint.engine.bundle import MANIFEST_KEY
from imagemint.exporter.publish import write_sums
from imagemint.v1 import manifest_pb2 as pb


def write_graph(
    directory: Path, file: str, model: onnx.ModelProto, manifest: pb.BundleManifest
) -> str:
    """Writes a graph with its manifest and the digests of the directory; returns its SHA-256."""
    text = json_format.MessageToJson(manifest, indent=None)
    onnx.helper.set_model_props(model, {MANIFEST_KEY: text})
    content = model.SerializeToString(deterministic=True)
    (directory / file).write_bytes(content)
    write_sums(directory)
    return hashlib.sha256(content).hexdigest()
