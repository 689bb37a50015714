"""Counts the Python calls of this project that one Generate request causes in the server.

The server runs in this process, and so does its client, whose calls do not count. Calls of all
threads count, of the event loop and of the instance that computes the image. A move is a call into
another file than the call before on the same thread.

    python benchmarks/overhead/calls.py
    python benchmarks/overhead/calls.py --model avatars --list
"""

import argparse
import asyncio
import collections
import sys
import threading
from pathlib import Path
from types import FrameType

import grpc

from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2, generation_service_pb2_grpc, image_pb2

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("engine/", "server/")
REQUESTS = 20
WARM_UP = 20
# The metrics of a batch are counted on the event loop, after the answer was sent.
SETTLE_S = 0.01
PLAIN = [("grpc.enable_http_proxy", 0)]  # the server is on this machine


class Counter:
    """Counts calls while `active`.

    Attributes:
        active: whether calls count.
        calls: number of calls by file and function.
        moves: number of calls into another file.
    """

    def __init__(self) -> None:
        self.active = False
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()
        self.moves = 0
        self._last: dict[int, str] = {}

    def count(self, frame: FrameType, event: str, _: object) -> None:
        """Counts a call; for `sys.setprofile`."""
        if not self.active or event != "call":
            return
        _, found, file = frame.f_code.co_filename.rpartition("/imagemint/")
        if not found or not file.startswith(PARTS):
            return
        self.calls[file, frame.f_code.co_qualname] += 1
        thread = threading.get_ident()
        self.moves += self._last.get(thread) != file
        self._last[thread] = file


async def measure(model: str, counter: Counter) -> None:
    """Asks a server for one image at a time."""
    app = App(
        ServeSettings(
            repository=ROOT / "models",
            model_control="explicit",
            load_models=[model],
            grpc_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
        )
    )
    await app.start()
    async with grpc.aio.insecure_channel(app.grpc_address, options=PLAIN) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for index in range(WARM_UP + REQUESTS):
            images = image_pb2.ImageSpec(
                model=model, seed=42, first_index=4 * index, count=1, class_id=1
            )
            sys.setprofile(counter.count if index >= WARM_UP else None)
            counter.active = index >= WARM_UP
            await stub.Generate(generation_service_pb2.GenerateRequest(images=images))
            await asyncio.sleep(SETTLE_S)
            counter.active = False
    sys.setprofile(None)
    await app.stop()


def main() -> None:
    """Prints the calls, files and moves of one request."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="mnist", help="a shipped model with classes")
    parser.add_argument("--list", action="store_true", help="list the functions")
    arguments = parser.parse_args()
    counter = Counter()
    threading.setprofile(counter.count)  # for the instances, which start later
    asyncio.run(measure(arguments.model, counter))
    files = {file for file, _ in counter.calls}
    calls = sum(counter.calls.values()) / REQUESTS
    print(f"{calls:.1f} calls in {len(files)} files, {counter.moves / REQUESTS:.1f} moves")
    if arguments.list:
        for (file, function), count in sorted(counter.calls.items()):
            print(f"{count / REQUESTS:6.1f}  {file}  {function}")


if __name__ == "__main__":
    main()
