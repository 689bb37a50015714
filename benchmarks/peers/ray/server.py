"""The generator behind Ray Serve.

There are two replicas with one core each. Each forms its own batches while the previous pass runs
in a thread, off the event loop. A batch does not wait: it contains what was queued meanwhile.
"""

import argparse
import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ray
from picture_model import PictureModel, encode_pngs, pack, unpack
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

REPLICAS = 2
# By default it is in /tmp, which all users of the machine share.
HAPROXY_FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state",
    "METRICS_SOCKET_PATH": "metrics.sock",
}


@serve.deployment(
    num_replicas=REPLICAS,
    max_ongoing_requests=256,  # or 5 requests at most could share a batch
    ray_actor_options={"num_cpus": 1},
    logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
)
class Images:
    """The deployment that a replica runs."""

    def __init__(self) -> None:
        self._model = PictureModel()
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        body = await request.body()
        content = await (self.png(body) if request.url.path == "/png" else self.raw(body))
        return Response(content, media_type="application/octet-stream")

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def raw(self, bodies: list[bytes]) -> list[bytes]:
        """Returns raw pixels."""
        return [images.tobytes() for images in await self._compute(bodies)]

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def png(self, bodies: list[bytes]) -> list[bytes]:
        """Returns PNG files."""
        return [pack(encode_pngs(images)) for images in await self._compute(bodies)]

    async def _compute(self, bodies: list[bytes]) -> list[np.ndarray]:
        """Returns the images of each request, computed in one pass."""
        z, class_id = unpack(b"".join(bodies), self._model.z_dim)
        images = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._model.images, z, class_id
        )
        ends = np.cumsum([len(body) for body in bodies]) // (4 * self._model.z_dim + 8)
        return np.split(images, ends[:-1])


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    folder = Path("haproxy").resolve()
    folder.mkdir()
    for name, file in HAPROXY_FILES.items():
        os.environ[f"RAY_SERVE_HAPROXY_{name}"] = str(folder / file)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(
        num_cpus=REPLICAS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        _temp_dir=str(Path("ray").resolve()),
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": options.port},
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    serve.run(Images.bind(), route_prefix="/")
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
