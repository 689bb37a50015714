"""The generator behind LitServe.

There are two workers. Each is a process that forms its own batches. Answers return over ZeroMQ
(`fast_queue`), which the manual recommends for high throughput. A worker collects requests for the
whole of `batch_timeout`, even if there are few. With 0 it would spin, so the timeout is short.

FastAPI reads the body as bytes. Both formats use one path, because each path has its own workers. A
byte after the records requests PNG.
"""

import argparse
from typing import Annotated, TypeAlias

import litserve
import numpy as np
from fastapi import Body, Response
from picture_model import PictureModel, encode_pngs, pack, unpack

WORKERS = 2
Inputs: TypeAlias = tuple[np.ndarray, np.ndarray, bool]


class Images(litserve.LitAPI):
    """The API that a worker runs."""

    def setup(self, device: str) -> None:
        """Opens the session."""
        del device
        self._model = PictureModel()
        self._record_bytes = 4 * self._model.z_dim + 8

    def decode_request(self, request: Annotated[bytes, Body()]) -> Inputs:
        """Returns latents and classes of one request, and whether it requests PNG."""
        count, png = divmod(len(request), self._record_bytes)
        records = request[: count * self._record_bytes]
        return *unpack(records, self._model.z_dim), bool(png)

    def batch(self, inputs: list[Inputs]) -> list[Inputs]:
        """Returns the requests unchanged, because their sizes are needed after the pass."""
        return inputs

    def predict(self, x: list[Inputs]) -> list[tuple[np.ndarray, bool]]:
        """Returns the images of each request, computed in one pass."""
        z, class_id, png = zip(*x, strict=True)
        images = self._model.compute_images(np.concatenate(z), np.concatenate(class_id))
        ends = np.cumsum([len(each) for each in z])
        return list(zip(np.split(images, ends[:-1]), png, strict=True))

    def unbatch(self, output: list[tuple[np.ndarray, bool]]) -> list[tuple[np.ndarray, bool]]:
        """Returns one answer for each request."""
        return output

    def encode_response(self, output: tuple[np.ndarray, bool]) -> Response:
        """Returns the body of an answer."""
        images, png = output
        content = pack(encode_pngs(images)) if png else images.tobytes()
        return Response(content, media_type="application/octet-stream")


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(
        Images(max_batch_size=64, batch_timeout=0.002, api_path="/images"),
        accelerator="cpu",
        workers_per_device=WORKERS,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        generate_client_file=False,
        log_level="warning",  # or every call would be a line
    )


if __name__ == "__main__":
    main()
