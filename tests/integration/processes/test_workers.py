"""Tests of `imagemint serve` with two workers, which act as one server."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from held_backend import WAIT_S
from server_process import ended, line_of, process, watched
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.access.api_keys import compute_digest
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each channel has its own connection, which the kernel gives to one of the workers.
APART = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
GENERATION = "imagemint.v1.GenerationService"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A repository with one small model without classes."""
    directory = tmp_path_factory.mktemp("tiny")
    write_bundle(directory, "tiny", conditional=False)
    return directory


class Pair:
    """A server with two workers, and a connection to each.

    Attributes:
        process: the supervisor.
        ready: what it logged when all was ready.
        pids: of the workers, by number.
        made: calls made so far, by worker.
        metadata: sent with every call.
    """

    def __init__(self, process, metadata=()):
        self.process = process
        self.metadata = metadata
        self.ready = {}
        self.pids = {}
        self.made = Counter()

    async def wait_for_start(self):
        """Waits until both workers are ready."""
        for _ in range(2):
            line = await line_of(self.process, "worker ready")
            self.pids[line["worker"]] = line["pid"]
        self.ready = await line_of(self.process, "ready")

    async def call(self, channel):
        """Requests three images and returns the number of the worker that answered."""
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        request = pb.GenerateRequest(images={"model": "tiny", "count": 3})
        await stub.Generate(request, metadata=self.metadata)
        worker = (await line_of(self.process, "call", method="Generate"))["worker"]
        self.made[worker] += 1
        return worker

    @asynccontextmanager
    async def connect_to_each(self):
        """Opens a channel to each worker, by its number."""
        async with AsyncExitStack() as opened:
            found = {}
            while len(found) < 2:
                each = grpc.aio.insecure_channel(self.ready["grpc_address"], options=APART)
                found[await self.call(await opened.enter_async_context(each))] = each
            yield found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(tiny):
    """A server for tests of this module that do not end it."""
    options = (f"--repository={tiny}", "--processes=2", "--access-log=1")
    async with process(*options, "--http-address=127.0.0.1:0") as started:
        pair = Pair(started)
        await pair.wait_for_start()
        yield pair
        started.send_signal(signal.SIGTERM)
        assert await ended(started) == 0


async def test_workers_share_the_http_port(pair):
    """New connections reach each worker, and the line `ready` has the address."""
    async with asyncio.timeout(WAIT_S):
        reached = set()
        while len(reached) < 2:
            async with httpx.AsyncClient(
                base_url=pair.ready["http_url"], trust_env=False, timeout=WAIT_S
            ) as web:
                answer = await web.post("v1/models/tiny:generate", json={"images": {"count": 3}})
                assert answer.status_code == 200
            worker = (await line_of(pair.process, "call", method="Generate"))["worker"]
            pair.made[worker] += 1
            reached.add(worker)


@pytest.fixture
def scrape_all(pair, scrape, total, until):
    """A function that returns samples in which the calls of all workers are counted.

    A scrape uses the previous figures of a worker that does not answer within a second.
    """

    async def scraped():
        seen = []

        async def all_counted():
            seen.append(await scrape(pair.ready["metrics_address"]))
            return total(seen[-1], "imagemint_requests_total", code="OK") >= pair.made.total()

        await until(all_counted)
        return seen[-1]

    return scraped


async def test_metrics_cover_all_workers_and_outlive_them(pair, scrape_all, total):
    """/metrics is exact over two workers, after a kill, and after a restart."""

    async def exact(workers):
        samples = await scrape_all()
        calls = pair.made.total()
        assert total(samples, "imagemint_requests_total", code="OK") == calls
        assert total(samples, "imagemint_request_duration_seconds_count") == calls
        assert total(samples, "imagemint_images_total", model="tiny") == 3 * calls
        assert total(samples, "imagemint_batch_images_sum") == 3 * calls
        assert total(samples, "imagemint_queue_wait_seconds_count") == calls
        assert total(samples, "imagemint_inflight_requests") == 0
        assert total(samples, "imagemint_queue_images") == 0
        assert total(samples, "imagemint_queue_limit_images") == 4_096 * workers
        assert samples["imagemint_workers_ready", frozenset()] == workers
        assert total(samples, "imagemint_model_info", model="tiny") == 1
        assert total(samples, "imagemint_build_info") == 1
        assert total(samples, "process_resident_memory_bytes", worker="1") > 0
        return samples

    async with pair.connect_to_each() as channels:
        for number in (0, 0, 1):
            assert await pair.call(channels[number]) == number
        await exact(workers=2)
        os.kill(pair.pids[0], signal.SIGKILL)
        died = await line_of(pair.process, "worker died")
        assert (died["worker"], died["cause"]) == (0, "killed by SIGKILL")
        await exact(workers=1)
        pair.pids[0] = (await line_of(pair.process, "worker ready", worker=0))["pid"]
        await pair.call(channels[1])
    async with pair.connect_to_each() as channels:
        for number in (0, 1):
            assert await pair.call(channels[number]) == number

    samples = await exact(workers=2)
    assert samples["imagemint_worker_restarts_total", frozenset({("worker", "0")})] == 1


async def test_workers_divide_the_limits_of_a_key(tiny, tmp_path):
    """Each of two workers has half of the burst."""
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[key]]\nname = "free"\nsha256 = "{compute_digest("free")}"\n'
        f'[[key]]\nname = "slow"\nsha256 = "{compute_digest("slow")}"\n'
        "rate_images_per_s = 0.001\nburst_images = 10\n"
    )
    options = (f"--repository={tiny}", "--processes=2", "--access-log=1", f"--api-keys={keys}")
    async with process(*options) as started:
        pair = Pair(started, (("x-api-key", "free"),))
        await pair.wait_for_start()
        async with pair.connect_to_each() as channels:
            metadata = (("x-api-key", "slow"),)
            for number in (0, 1):
                stub = generation_service_pb2_grpc.GenerationServiceStub(channels[number])
                for count in (3, 2):
                    request = pb.GenerateRequest(images={"model": "tiny", "count": count})
                    await stub.Generate(request, metadata=metadata)
                request = pb.GenerateRequest(images={"model": "tiny", "count": 1})
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Generate(request, metadata=metadata, timeout=WAIT_S)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        started.send_signal(signal.SIGTERM)
        assert await ended(started) == 0


async def test_model_statistics_cover_all_workers(pair):
    """Any worker gives the sums over the Open Inference Protocol."""
    request = grpc_service_pb2.ModelStatisticsRequest(name="tiny")
    async with pair.connect_to_each() as channels:

        async def told(number):
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channels[number])
            (model,) = (await stub.ModelStatistics(request)).model_stats
            stats = model.inference_stats
            assert {stats.queue.count, stats.compute_infer.count} == {stats.success.count}
            assert model.inference_count == 3 * stats.success.count
            return stats.success.count

        before = await told(0)
        for number in (0, 1, 1):
            await pair.call(channels[number])
        assert await told(0) == await told(1) == before + 3


async def test_terminated_worker_is_replaced(pair, scrape_all, total):
    """A worker that gets SIGTERM stops with its last counts and is replaced."""
    async with pair.connect_to_each() as channels:
        for number in (0, 1, 1):
            assert await pair.call(channels[number]) == number
    os.kill(pair.pids[1], signal.SIGTERM)
    await line_of(pair.process, "worker stopped", worker=1)
    died = await line_of(pair.process, "worker died")
    assert (died["worker"], died["cause"]) == (1, "exit status 0")
    pair.pids[1] = (await line_of(pair.process, "worker ready", worker=1))["pid"]
    samples = await scrape_all()
    calls = pair.made.total()
    assert total(samples, "imagemint_requests_total", code="OK", method="Generate") == calls


async def test_killed_worker_causes_no_error(tiny):
    """Under load no caller gets an error or a wrong byte, and streams continue."""
    count, streamed = 16, 40
    engine = OnnxBackend(read_bundle(tiny / "tiny/1"), device="cpu")
    expected = engine.run(Batch(draw_latents(5, 0, 64 * streamed, 8)))
    answered, more = asyncio.Semaphore(0), asyncio.Event()
    more.set()

    async def ask(client):
        index = 0
        while more.is_set():
            batch = await client.generate("tiny", count, seed=5, first_index=index)
            assert np.array_equal(batch.image, expected[index : index + count])
            answered.release()
            index = (index + count) % (streamed * 16)

    async def read(client):
        while more.is_set():
            index = 0
            async for batch in client.stream("tiny", 64 * streamed, seed=5, chunk_size=64):
                assert np.array_equal(batch.image, expected[index : index + 64])
                index += 64
                answered.release()
            assert index == 64 * streamed

    async with AsyncExitStack() as opened:
        started = await opened.enter_async_context(
            process(f"--repository={tiny}", "--processes=2", "--access-log=0")
        )
        pair = Pair(started)
        await pair.wait_for_start()
        clients = [
            await opened.enter_async_context(
                AsyncClient(pair.ready["grpc_address"], timeout_s=WAIT_S)
            )
            for _ in range(10)
        ]
        askers = [asyncio.create_task(ask(client)) for client in clients[:6]]
        askers += [asyncio.create_task(read(client)) for client in clients[6:]]
        async with asyncio.timeout(WAIT_S):
            for number in (0, 1):
                for _ in range(40):
                    await answered.acquire()
                os.kill(pair.pids[number], signal.SIGKILL)
                await line_of(started, "worker died", worker=number)
                await line_of(started, "worker ready", worker=number)
            for _ in range(40):
                await answered.acquire()
            more.clear()
            await asyncio.gather(*askers)
        started.send_signal(signal.SIGTERM)
        assert await ended(started) == 0


async def test_workers_end_without_their_supervisor(tiny, tmp_path, scrape, total, until):
    """If the supervisor is killed, workers finish their calls, end, and leave no files."""
    options = (f"--repository={tiny}", "--processes=2", "--batch-delay-ms=1000")
    async with process(*options, TMPDIR=str(tmp_path)) as started:
        pair = Pair(started)
        await pair.wait_for_start()
        gone = [watched(pid) for pid in pair.pids.values()]
        assert not list(tmp_path.iterdir())
        async with grpc.aio.insecure_channel(pair.ready["grpc_address"], options=APART) as each:
            stub = generation_service_pb2_grpc.GenerationServiceStub(each)
            calls = [
                stub.Generate(pb.GenerateRequest(images={"model": "tiny", "count": 1}))
                for _ in range(4)
            ]

            async def inside():
                samples = await scrape(pair.ready["metrics_address"])
                inflight = total(samples, "imagemint_inflight_requests", service=GENERATION)
                return inflight == 4 or any(call.done() for call in calls)

            await until(inside)
            started.kill()
            answers = await asyncio.gather(*calls)
        assert len(answers) == 4
        for wait in gone:
            await wait()
    assert not list(tmp_path.iterdir())


async def test_invalid_repository_fails_the_start(tmp_path):
    """The log has the reason of the workers, and the exit status is 1."""
    missing = tmp_path / "missing"
    async with process(f"--repository={missing}", "--processes=2") as started:
        async with asyncio.timeout(WAIT_S):
            _, log = await started.communicate()
    assert started.returncode == 1
    last = log.decode().splitlines()[-1]
    assert f"model repository {missing} is not a directory" in last
