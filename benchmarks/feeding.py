"""Measures how long a training loop waits for its images: from a server, and from files on disk.

The same images, of the same serials, come in three ways: from memory, which shows the loop alone;
from PNG files in class folders, decoded by a DataLoader; and from a server on the same machine. The
ways take turns in rounds. The result is the share of the time of a step that the loop waits for its
next batch, and the images per second.

    python benchmarks/feeding.py --model mnist --version 2 --json FILE
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from imagemint.client import Client, Cycle
from imagemint.client.torch import ServerSource, SyntheticStream

ROOT = Path(__file__).parents[1]
SEED = 7

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Result:
    """One way.

    Attributes:
        waiting_share: median over the rounds of waiting time by total time, 0 to 1.
        images_per_s: median over the rounds.
    """

    waiting_share: float
    images_per_s: float


class Files(Dataset[tuple[torch.Tensor, int]]):
    """PNG files in one folder for each class."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*/*.png"), key=lambda path: path.name)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        path = self._paths[position]
        pixels = np.asarray(Image.open(path))
        pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        return torch.from_numpy(pixels.copy()), int(path.parent.name)


@contextlib.contextmanager
def serve(model: str, version: str) -> Iterator[str]:
    """Serves one version of a shipped model in a process of its own; yields its address."""
    with tempfile.TemporaryDirectory() as repository:
        (Path(repository) / model).mkdir()
        (Path(repository) / model / version).symlink_to(ROOT / "models" / model / version)
        command = Path(sys.executable).with_name("imagemint")
        started = subprocess.Popen(  # noqa: S603 - our own command
            [
                *(command, "serve", "--repository", repository, "--start-timeout-s", "60"),
                *("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert started.stderr is not None  # noqa: S101 - for the type checker
            for line in started.stderr:
                found = re.search(r'"grpc_address": "([^"]+)".*"event": "ready"', line)
                if found:
                    yield found[1]
                    break
            else:
                raise RuntimeError("the server ended before it was ready")
        finally:
            started.terminate()
            started.communicate()


def write_files(address: str, model: str, count: int, folder: Path) -> None:
    """Writes the images as PNG files: `<class>/<index>.png`."""
    with Client(address) as client:
        for pictures in client.stream_encoded(model, count, seed=SEED, condition=Cycle()):
            for picture in pictures:
                class_id = 0 if picture.class_id is None else int(picture.class_id[0])
                path = folder / str(class_id) / f"{int(picture.index[0]):08}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(picture.data)


def make_step(shape: tuple[int, int, int]) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Returns one training step of a small convolutional classifier."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(shape[2], 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(network.parameters())

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        loss = nn.functional.cross_entropy(network(images / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(
    batches: Batches, step: Callable[[torch.Tensor, torch.Tensor], None]
) -> tuple[float, float]:
    """Returns the waiting share and the images per second of one epoch, without its first batch."""
    feed = iter(batches)
    step(*next(feed))  # starts workers and connections
    images, waiting_s, began = 0, 0.0, time.perf_counter()
    while True:
        requested_s = time.perf_counter()
        batch = next(feed, None)
        waiting_s += time.perf_counter() - requested_s
        if batch is None:
            total_s = time.perf_counter() - began
            return waiting_s / total_s, images / total_s
        step(*batch)
        images += len(batch[0])


def measure(address: str, model: str, *, batch: int, steps: int, rounds: int) -> dict[str, Result]:
    """Measures each way in every round, and returns the medians."""
    source = ServerSource(address, model, seed=SEED, condition=Cycle())
    count = batch * (steps + 1)
    step = make_step(source.identity.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        write_files(address, model, count, Path(folder))
        files = Files(Path(folder))
        images, labels = zip(*(files[at] for at in range(len(files))), strict=True)
        memory = TensorDataset(torch.stack(images), torch.tensor(labels))
        ways: dict[str, Callable[[], Batches]] = {
            "memory": lambda: DataLoader(memory, batch),
            "disk": lambda: DataLoader(files, batch),
            "disk, 1 worker": lambda: DataLoader(files, batch, num_workers=1),
            "server": lambda: SyntheticStream(source, count, block_size=batch, batched=True),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, make in ways.items():
                found[name].append(run(make(), step))
    source.close()
    return {
        name: Result(*(statistics.median(column) for column in zip(*each, strict=True)))
        for name, each in found.items()
    }


def main() -> None:
    """Measures, prints a table, and with --json writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist", help="a model in models/")
    parser.add_argument("--version", default="2")
    parser.add_argument("--server", help="HOST:PORT; default: one of our own")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--steps", type=int, default=100, help="measured steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of the training step")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        address = options.server or stack.enter_context(serve(options.model, options.version))
        sizes = {"batch": options.batch, "steps": options.steps, "rounds": options.rounds}
        results = measure(address, options.model, **sizes)
    for name, result in results.items():
        print(f"{name:15} waits {result.waiting_share:6.1%}   {result.images_per_s:8.0f} images/s")
    if options.json:
        settings = {**sizes, "threads": options.threads, "cores": len(os.sched_getaffinity(0))}
        ways = {name: asdict(result) for name, result in results.items()}
        options.json.write_text(json.dumps({"settings": settings, "ways": ways}, indent=2) + "\n")


if __name__ == "__main__":
    main()
