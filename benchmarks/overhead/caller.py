"""Measures the CPU time of a call in several clients, against an empty handler.

The handler runs in its own process on uvloop, as in cost.py, and returns imagemint's answer with
one raw image. The clients take turns on an event loop of uvloop: gRPC's asyncio client, the whole
load test with it (requests, histograms, counts of images) and, if it is installed, a client on the
h2 library.

    python benchmarks/overhead/caller.py
    pip install h2 && python benchmarks/overhead/caller.py --calls 2000 --repeats 5
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cost
import grpc

from imagemint.bench.client_processes import measure_plan
from imagemint.bench.clock import Monotonic
from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.load import Closed, Plan
from imagemint.bench.mix import parse_mix
from imagemint.server.event_loop import run
from imagemint.v1 import generation_service_pb2, image_pb2

try:
    import h2.config
    import h2.connection
    import h2.events

    has_h2 = True
except ModuleNotFoundError:
    has_h2 = False

PIXELS = 28 * 28

Call: TypeAlias = Callable[[bytes], Awaitable[bytes]]


def answer() -> bytes:
    """Returns a serialised answer with one raw image."""
    image = image_pb2.MintedImage(serial="empty@1/42/0?class=7", index=0, class_id=7)
    batch = image_pb2.ImageBatch(
        model=cost.MODEL, version="1", seed=42, images=[image], pictures=[bytes(PIXELS)]
    )
    return generation_service_pb2.GenerateResponse(batch=batch).SerializeToString()


# --- ways to make a call --------------------------------------------------------------------------


@asynccontextmanager
async def open_grpc(address: str) -> AsyncIterator[Call]:
    """Opens gRPC's asyncio client."""
    async with grpc.aio.insecure_channel(address, options=cost.PLAIN) as channel:
        call: Any = channel.unary_unary(cost.METHOD)
        yield call


class OverH2(asyncio.Protocol):
    """A minimal client on the h2 library, without its checks of header fields."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready = self.loop.create_future()
        self.running: dict[int, asyncio.Future[bytes]] = {}
        self.answers: dict[int, bytes] = {}
        self.flushing = False
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
        self.http = h2.connection.H2Connection(config)

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's or uvloop's
        """Opens the HTTP/2 connection."""
        self.transport = transport
        self.http.initiate_connection()
        self.http.increment_flow_control_window(2**30)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Passes answers to the waiting calls."""
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.answers[event.stream_id] = event.data[5:]
            elif isinstance(event, h2.events.StreamEnded):
                self.running.pop(event.stream_id).set_result(self.answers.pop(event.stream_id))
            elif isinstance(event, h2.events.RemoteSettingsChanged) and not self.ready.done():
                self.ready.set_result(None)
        self.flush()

    def flush(self) -> None:
        """Sends pending data, once per iteration of the loop."""
        self.flushing = False
        if data := self.http.data_to_send():
            self.transport.write(data)

    def call(self, fields: list[tuple[bytes, bytes]], message: bytes) -> asyncio.Future[bytes]:
        """Makes one call."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, fields)
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self.http.send_data(stream, framed, end_stream=True)
        self.running[stream] = self.loop.create_future()
        if not self.flushing:
            self.flushing = True
            self.loop.call_soon(self.flush)
        return self.running[stream]


@asynccontextmanager
async def open_h2(address: str) -> AsyncIterator[Call]:
    """Opens a client on the h2 library."""
    host, port = address.split(":")
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(OverH2, host, int(port))
    await client.ready
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": cost.METHOD,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "30S",
    }
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]

    async def call(message: bytes) -> bytes:
        return await client.call(encoded, message)

    yield call
    transport.close()


# --- the measurement ------------------------------------------------------------------------------


async def measure_loop(
    connect: Callable[[str], AbstractAsyncContextManager[Call]],
    address: str,
    calls: int,
    callers: int,
) -> float:
    """Returns the CPU time per call of this process in a closed loop, in milliseconds."""
    async with connect(address) as call:
        requests = [cost.make_request(index) for index in range(512)]
        await call(requests[0])
        indices = iter(range(calls))

        async def run_caller() -> None:
            for index in indices:
                await call(requests[index % len(requests)])

        began = time.process_time()
        await asyncio.gather(*(run_caller() for _ in range(callers)))
        return 1e3 * (time.process_time() - began) / calls


async def measure_bench(address: str, calls: int, callers: int) -> float:
    """Returns the CPU time per call that the load test reports, in milliseconds."""

    async def start_at_once() -> int:
        return time.monotonic_ns()

    plan = Plan(Closed(callers), parse_mix("count=1 class=7"), images=calls)
    share = await measure_plan(
        ImagemintTarget((address,), cost.MODEL), plan, start_at_once, Monotonic()
    )
    return share.effort.cpu_ms_per_call or 0.0


def measure(options: argparse.Namespace) -> dict[str, dict[int, list[float]]]:
    """Returns CPU milliseconds per call by client and number of callers, measured in turn."""
    ways: dict[str, Callable[[str, int, int], Any]] = {
        "gRPC's asyncio client": lambda *what: measure_loop(open_grpc, *what),
        "imagemint bench": measure_bench,
    }
    if has_h2:
        ways["h2"] = lambda *what: measure_loop(open_h2, *what)
    found: dict[str, dict[int, list[float]]] = {
        name: {callers: [] for callers in options.callers} for name in ways
    }
    server = (sys.executable, Path(cost.__file__), "--serve-nothing", answer().hex(), "--uvloop")
    with cost.run_server(*server) as (address, _):
        for _ in range(options.repeats):
            for callers in options.callers:
                for name, way in ways.items():
                    found[name][callers].append(run(way(address, options.calls, callers)))
    return found


def main() -> None:
    """Prints a table of medians, with minima in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=2_000, help="calls per measurement")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = measure(options)
    print(
        "| CPU ms per call | "
        + " | ".join(f"{caller} callers" for caller in options.callers)
        + " |"
    )
    print("|---|" + "---:|" * len(options.callers))
    for name, by_callers in found.items():
        cells = (f"{statistics.median(ms):.3f} ({min(ms):.3f})" for ms in by_callers.values())
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
