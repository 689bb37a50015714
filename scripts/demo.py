"""`make demo`: serves the shipped models and generates ten digits of each class over gRPC.

The demo shows, in this order: a server that starts on free ports and reports that it is ready; a
contact sheet (rows are classes, columns share a latent), at the right of it people that a model
enlarges; serial numbers; latency and throughput from the server's metrics; one serial that a new
client generates again with the same bytes; a shutdown on SIGTERM with exit status 0; the command
that serves the page. It needs the `server` extra, but no GPU, data or torch.
"""

import argparse
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from imagemint.client import Caption, Client, ImageBatch, ImagemintError
from imagemint.client.models import Manifest
from imagemint.server.healthcheck import read_serving_status

ROOT = Path(__file__).resolve().parent.parent
MODEL = "mnist"
SEED = 42
PER_CLASS = 10
BURST = 1000
# Large models are tested when they are loaded, which takes seconds of a free core.
LOADED_WITHIN_S = 120.0
READY_WITHIN_S = LOADED_WITHIN_S + 30
GONE_WITHIN_S = 15.0
PAGE_ADDRESS = "127.0.0.1:8000"
# More models, on the right of the sheet, if the repository holds them.
PEOPLE = ("avatars", "avatars-text")
# A model that enlarges images, likewise.
ENLARGER = "srgan"
Pixels = NDArray[np.uint8]
# Side of a tile of the sheet, in pixels: an image, enlarged by a whole number, and its margin.
TILE = 64


class DemoError(Exception):
    """The demo failed; the message has the reason."""


@dataclass(frozen=True)
class Server:
    """A running `imagemint serve`."""

    process: subprocess.Popen[str]
    grpc_address: str
    metrics_address: str


@contextmanager
def run_server(repository: Path) -> Iterator[Server]:
    """Yields a server over `repository` on free loopback ports, and always stops it."""
    command = Path(sys.executable).with_name("imagemint")
    process = subprocess.Popen(
        [
            command,
            "serve",
            f"--repository={repository}",
            # Older versions would only prolong the start.
            "--version-policy=latest:1",
            # Ready with the newest versions, and not with older ones that they soon replace.
            f"--start-timeout-s={LOADED_WITHIN_S}",
            "--grpc-address=127.0.0.1:0",
            "--metrics-address=127.0.0.1:0",
            # Flags override the environment: the code below parses the log.
            "--log-format=json",
            "--log-level=info",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = _read_ready_line(process)
        yield Server(process, ready["grpc_address"], ready["metrics_address"])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _read_ready_line(process: subprocess.Popen[str]) -> dict[str, str]:
    """Returns the server's `ready` line, and continues to read its log."""
    lines: queue.Queue[str | None] = queue.Queue()

    def drain() -> None:
        # The server would block when the pipe is full.
        assert process.stderr is not None  # noqa: S101 - it was opened as a pipe
        for line in process.stderr:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=drain, daemon=True).start()
    deadline = time.monotonic() + READY_WITHIN_S
    log_lines: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            tail = "".join(log_lines[-10:])
            raise DemoError(f"the server was not ready in {READY_WITHIN_S:g} s:\n{tail}") from None
        if line is None:
            tail = "".join(log_lines[-10:])
            raise DemoError(f"the server exited with status {process.wait()}:\n{tail}")
        log_lines.append(line)
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "ready":
            return {key: str(value) for key, value in event.items()}


@dataclass(frozen=True)
class Counters:
    """Counters from /metrics. Subtract two of them to measure the time between."""

    images: float
    requests: float
    request_seconds: float
    read_at_s: float

    @classmethod
    def read(cls, metrics_address: str) -> "Counters":
        """Reads the current counters.

        Only unary requests count: the duration of a stream is its length, not a latency.
        """
        with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("method", "Generate") == "Generate":
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return cls(
            images=sums["imagemint_images_total"],
            requests=sums["imagemint_request_duration_seconds_count"],
            request_seconds=sums["imagemint_request_duration_seconds_sum"],
            read_at_s=time.monotonic(),
        )


def draw_sheet(tiles: Pixels) -> Image.Image:
    """Returns one picture from tiles uint8 [rows, columns, height, width, channels]."""
    zoom = TILE // tiles.shape[2]
    gap = (TILE // zoom - tiles.shape[2]) // 2
    padded = np.pad(tiles, ((0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=48)
    r, c, h, w, channels = padded.shape
    pixels = padded.transpose(0, 2, 1, 3, 4).reshape(r * h, c * w, channels)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def mint_rows(client: Client, model: str) -> list[ImageBatch]:
    """Requests ten images of each class or example caption; returns a batch for each.

    It prints some of the serials.

    Raises:
        DemoError: no version of the model is ready.
    """
    manifest = _read_manifest(client, model)
    conditions: list[int | Caption] = [*range(len(manifest.class_labels))]
    if manifest.captions is not None:
        conditions = [Caption(text) for text in manifest.captions.examples]
    rows = [
        client.generate(model, PER_CLASS, seed=SEED, condition=condition)
        for condition in conditions
    ]
    what = "classes" if manifest.captions is None else "captions"
    print(f"{PER_CLASS} images of each of {len(rows)} {what}, model {model}")
    for row in rows[:: max(1, len(rows) // 3)]:
        print(f"  serial {row.serials[0]}")
    return rows


def stack_rows(rows: list[ImageBatch]) -> Pixels:
    """Returns the images of batches, uint8 [batches, images, height, width, channels]."""
    return np.stack([row.image for row in rows])


def sharpen_people(client: Client, people: Pixels) -> Pixels:
    """Shrinks the first person of each row fourfold, and lets a model enlarge them again.

    Args:
        client: a connection to the server.
        people: uint8 [rows, columns, height, width, 3].

    Returns:
        Sources, enlarged without interpolation, beside results; uint8 [rows, 2, height, width, 3].

    Raises:
        DemoError: no version of the model is ready.
    """
    _read_manifest(client, ENLARGER)
    height, width = people.shape[2:4]
    sources = [
        np.asarray(
            Image.fromarray(row[0]).resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        )
        for row in people
    ]
    results = client.translate(ENLARGER, sources)
    print(f"{len(results)} people of {width // 4}x{height // 4} pixels enlarged, model {ENLARGER}")
    print(f"  serial {results[0].serials[0]}")
    return np.stack(
        [
            np.stack([source.repeat(4, axis=0).repeat(4, axis=1), result.image])
            for source, result in zip(sources, results, strict=True)
        ]
    )


def _read_manifest(client: Client, name: str) -> Manifest:
    """Returns the manifest of the default version."""
    model = client.model(name)
    manifest = model.manifest()
    if manifest is None:
        reasons = "; ".join(
            f"version {it.version} is {it.state}: {it.reason}" for it in model.versions
        )
        raise DemoError(f"no version of {name} is ready ({reasons})")
    return manifest


def write_sheet(parts: list[Pixels], out: Path) -> None:
    """Writes one picture with the tiles of each model side by side."""
    pictures = [draw_sheet(tiles) for tiles in parts]
    width, height = (
        sum(picture.width for picture in pictures),
        max(picture.height for picture in pictures),
    )
    sheet = Image.new("RGB" if len(pictures) > 1 else pictures[0].mode, (width, height))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    print(f"wrote {out}")


def report_speed(client: Client, server: Server) -> None:
    """Prints the latency of the calls and the throughput of a stream, both from /metrics."""
    before = Counters.read(server.metrics_address)
    latency_ms = 1000 * before.request_seconds / before.requests
    for _ in client.stream(MODEL, BURST, seed=SEED):
        pass
    after = Counters.read(server.metrics_address)
    rate = (after.images - before.images) / (after.read_at_s - before.read_at_s)
    print(
        f"from /metrics: {latency_ms:.1f} ms mean latency of {before.requests:.0f} calls of "
        f"{PER_CLASS} images; {rate:,.0f} images/s over a stream of {BURST:,}"
    )


def prove_serial(server: Server, row: ImageBatch) -> None:
    """Generates the last image of `row` again, through a client that has only its serial.

    Raises:
        DemoError: the pixels differ.
    """
    serial, pixels = row.serials[-1], row.image[-1]
    with Client(server.grpc_address) as other_client:
        again = other_client.mint(serial).image[0]
    if again.tobytes() != pixels.tobytes():
        raise DemoError(f"{serial} was generated again and the bytes differ")
    print(f"generated again from its serial alone: {serial}\n  the {pixels.size} bytes are equal")


def shut_down(server: Server) -> None:
    """Sends SIGTERM and checks that the server stops cleanly.

    Raises:
        DemoError: the server did not stop in time, or its exit status is not 0.
    """
    server.process.send_signal(signal.SIGTERM)
    try:
        status = server.process.wait(timeout=GONE_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise DemoError(f"the server did not stop in {GONE_WITHIN_S:g} s") from None
    if status != 0:
        raise DemoError(f"the server stopped with exit status {status}")
    print("server stopped cleanly, exit status 0")


def run_demo(repository: Path, out: Path) -> None:
    """Runs the whole demo."""
    if not any((repository / MODEL).glob("*/model.onnx")):
        raise DemoError(
            f"{repository} holds no bundle `{MODEL}/<version>/model.onnx`; it ships with the "
            "project, or you create it with `imagemint train mnist` and `imagemint export`"
        )
    with run_server(repository) as server:
        status = read_serving_status(server.grpc_address, timeout_s=READY_WITHIN_S)
        print(f"server at {server.grpc_address}: {status}")
        with Client(server.grpc_address) as client:
            rows = mint_rows(client, MODEL)
            report_speed(client, server)
            parts = [stack_rows(rows)]
            parts += [
                stack_rows(mint_rows(client, model))
                for model in PEOPLE
                if any((repository / model).glob("*/model.onnx"))
            ]
            if len(parts) > 1 and any((repository / ENLARGER).glob("*/model.onnx")):
                parts.append(sharpen_people(client, parts[1]))
            write_sheet(parts, out)
        prove_serial(server, rows[-1])
        shut_down(server)
    command = Path(sys.executable).with_name("imagemint")
    print(
        f"to play with the models in a browser:\n  {_shorten(command)} serve"
        f" --http-address {PAGE_ADDRESS} --http-metrics\n  and open http://{PAGE_ADDRESS}/"
    )


def _shorten(path: Path) -> Path:
    """Returns a path relative to the current directory if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main() -> int:
    """Runs the demo; returns 0, or 1 after one line about the error."""
    parser = argparse.ArgumentParser(description="Generate ten images of each class.")
    parser.add_argument("--repository", type=Path, default=ROOT / "models")
    parser.add_argument("--out", type=Path, default=Path("demo/sheet.png"))
    options = parser.parse_args()
    try:
        run_demo(options.repository, options.out)
    except (DemoError, ImagemintError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
