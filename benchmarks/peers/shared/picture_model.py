"""The model of all peers: the bundle's graph in a plain ONNX Runtime session, and PNG by Pillow.

All peers import this module, each in its own environment, so that they differ only in the
framework. It needs onnxruntime, numpy and Pillow.
"""

import io
import os
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

# Variable with the path of the ONNX file.
MODEL_FILE = "PEER_MODEL"
# Two workers or threads share two cores, so each session has one thread.
THREADS = 1


class PictureModel:
    """The generator of a bundle. It is thread-safe, as `run` of a session is, and releases the GIL.

    Args:
        path: the ONNX file. Default: that of the environment variable.

    Attributes:
        z_dim: length of a latent.
    """

    def __init__(self, path: str | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            path or os.environ[MODEL_FILE], options, providers=["CPUExecutionProvider"]
        )
        self.z_dim: int = self._session.get_inputs()[0].shape[1]

    def compute_images(
        self, z: npt.NDArray[np.float32], class_id: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        """Returns uint8 [N, H, W, C] for float32 [N, z_dim] and int64 [N, 1]."""
        (image,) = self._session.run(None, {"z": z, "class_id": class_id})
        return image  # type: ignore[no-any-return]


def encode_pngs(images: npt.NDArray[np.uint8]) -> list[bytes]:
    """Encodes uint8 [N, H, W, C] as N PNG files."""
    return [_encode_png(image) for image in images]


def _encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
    return out.getvalue()


def unpack(body: bytes, z_dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns z float32 [N, z_dim] and class_id int64 [N, 1] of an HTTP body.

    A body has one record per image: its latent and its class, little-endian.
    """
    records = np.frombuffer(body, [("z", "<f4", (z_dim,)), ("class_id", "<i8", (1,))])
    return np.ascontiguousarray(records["z"]), np.ascontiguousarray(records["class_id"])


def pack(files: Sequence[bytes]) -> bytes:
    """Returns files as one body, each after its length (uint32, little-endian)."""
    return b"".join(part for file in files for part in (struct.pack("<I", len(file)), file))
