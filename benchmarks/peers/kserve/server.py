"""The generator as two models of KServe's Python server: pixels, and PNG.

The server does not batch. KServe's batcher is part of the agent, a sidecar written in Go that only
a Kubernetes cluster starts and that supports only the HTTP protocol v1. Every call is therefore a
pass of its own. One process serves gRPC, whatever the value of `workers`, which applies to the REST
server. Passes run in two threads, one for each core.
"""

import argparse
import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from picture_model import PictureModel, encode_pngs

THREADS = ThreadPoolExecutor(2)


class Pixels(Model):
    """Raw pixels.

    Args:
        name: name of the model.
        model: the generator.
    """

    def __init__(self, name: str, model: PictureModel) -> None:
        super().__init__(name)
        self._model = model
        self.ready = True

    async def predict(self, payload: InferRequest, headers: dict[str, str]) -> InferResponse:
        """Computes one call off the loop."""
        del headers
        inputs = {input_.name: input_.as_numpy() for input_ in payload.inputs}
        output = await asyncio.get_running_loop().run_in_executor(
            THREADS, self.answer, inputs["z"], inputs["class_id"]
        )
        return InferResponse(
            payload.id, self.name, [output], from_grpc=True, use_binary_outputs=True
        )

    def answer(self, z: np.ndarray, class_id: np.ndarray) -> InferOutput:
        """Runs in a thread."""
        image = self._model.compute_images(z, class_id)
        output = InferOutput("image", list(image.shape), "UINT8")
        output.set_data_from_numpy(image, binary_data=True)
        return output


class Pngs(Pixels):
    """PNG files."""

    def answer(self, z: np.ndarray, class_id: np.ndarray) -> InferOutput:
        """Runs in a thread."""
        files = np.array(encode_pngs(self._model.compute_images(z, class_id)), dtype=np.object_)
        output = InferOutput("image", list(files.shape), "BYTES")
        output.set_data_from_numpy(files, binary_data=True)
        return output


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    options = parser.parse_args()
    model = PictureModel()
    server = ModelServer(
        http_port=options.http_port, grpc_port=options.grpc_port, enable_latency_logging=False
    )
    logging.getLogger("kserve").setLevel(logging.WARNING)  # or every call would be a line
    server.start([Pixels("reference", model), Pngs("reference_png", model)])


if __name__ == "__main__":
    main()
