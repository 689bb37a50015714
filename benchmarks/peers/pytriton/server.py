"""The generator as two models of Triton, bound by PyTriton: pixels, and PNG.

Each model has two inference callables, which Triton calls instances. A thread of this process
serves each of them, and Triton sends them batches. The batcher does not wait, as Triton recommends
at first: while both instances compute, the next batches grow.
"""

import argparse
import os
import signal
import sys
import sysconfig

import numpy as np
from picture_model import PictureModel, encode_pngs
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

INSTANCES = 2
# If the second instance requests its settings before the first one listens, the model fails (as in
# pytriton issue 109). Therefore they start one after the other.
os.environ["TRITON_PARALLEL_INSTANCE_LOADING"] = "0"
# PyTriton's manual requires this for Pythons that are not part of the system: otherwise Triton's
# process uses the libpython of another release.
os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")


class Pixels:
    """Raw pixels.

    Args:
        model: the generator.
    """

    def __init__(self, model: PictureModel) -> None:
        self._model = model

    @batch
    def __call__(self, z: np.ndarray, class_id: np.ndarray) -> dict[str, np.ndarray]:
        """Computes one batch."""
        return {"image": self._model.compute_images(z, class_id)}


class Pngs(Pixels):
    """PNG files."""

    @batch
    def __call__(self, z: np.ndarray, class_id: np.ndarray) -> dict[str, np.ndarray]:
        """Computes one batch."""
        files = encode_pngs(self._model.compute_images(z, class_id))
        return {"image": np.array(files, dtype=np.object_).reshape(-1, 1)}


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # or Triton's process is left behind
    models = [PictureModel() for _ in range(INSTANCES)]
    inputs = [
        Tensor(name="z", dtype=np.float32, shape=(models[0].z_dim,)),
        Tensor(name="class_id", dtype=np.int64, shape=(1,)),
    ]
    config = ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0))
    with Triton(
        config=TritonConfig(
            grpc_address="127.0.0.1",
            grpc_port=options.grpc_port,
            http_address="127.0.0.1",
            http_port=options.http_port,
            metrics_port=options.metrics_port,
            log_verbose=0,
        )
    ) as triton:
        triton.bind(
            model_name="reference",
            infer_func=[Pixels(model) for model in models],
            inputs=inputs,
            outputs=[Tensor(name="image", dtype=np.uint8, shape=(-1, -1, -1))],
            config=config,
        )
        triton.bind(
            model_name="reference_png",
            infer_func=[Pngs(model) for model in models],
            inputs=inputs,
            outputs=[Tensor(name="image", dtype=np.bytes_, shape=(1,))],
            config=config,
        )
        triton.serve()


if __name__ == "__main__":
    main()
