"""Tests of callers that do not read responses or keep idle connections, next to others."""

import asyncio
import contextlib

import grpc
import pytest
from greedy_client import greedy_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient, PermissionDenied, Unauthenticated
from imagemint.open_inference import grpc_service_pb2
from imagemint.server.access.api_keys import compute_digest
from imagemint.v1 import generation_service_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATE = "/imagemint.v1.GenerationService/Generate"
STREAM = "/imagemint.v1.GenerationService/StreamGenerate"
INFER = "/inference.GRPCInferenceService/ModelInfer"
WATCHED = health_pb2.HealthCheckRequest(service="imagemint.v1.ModelService")
APART = [("grpc.use_local_subchannel_pool", 1)]
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 128x128 images: 48 kB each, far more than the initial window of a client."""
    directory = tmp_path_factory.mktemp("large")
    write_bundle(directory, "digits", size=(128, 128, 3))
    return directory


def make_stream_request(count=10**6, **more):
    """Returns a request for a stream of images."""
    return pb.StreamGenerateRequest(images={"model": "digits", "count": count}, **more)


def make_tensor_request(rows):
    """Returns a request for this many images as tensors."""
    request = grpc_service_pb2.ModelInferRequest(model_name="digits")
    for name in ("seed", "index"):
        request.inputs.add(name=name, datatype="UINT64", shape=(rows, 1))
        request.raw_input_contents.append(bytes(8 * rows))
    return request


@pytest.mark.parametrize("kind", ["stream", "chunks", "single", "tensors"])
async def test_unread_responses_are_limited(serve, large, scrape, total, until, kind):  # noqa: PLR0917 - fixtures
    """A hundred calls whose client reads nothing hold half of the budget. Another is served."""
    app = await serve(large, max_bytes_in_flight=32 * MEBIBYTE, max_calls_per_caller=200)
    method, request = {
        "stream": (STREAM, make_stream_request()),
        "chunks": (STREAM, make_stream_request(chunk_size=40)),
        "single": (GENERATE, pb.GenerateRequest(images={"model": "digits", "count": 40})),
        "tensors": (INFER, make_tensor_request(40)),
    }[kind]
    async with greedy_client(app.grpc_address) as greedy:
        for _ in range(100):
            greedy.call(method, request)
        service = method.rpartition("/")[0].removeprefix("/")

        async def all_wait():
            samples = await scrape(app.metrics_address)
            held = total(samples, "imagemint_bytes_in_flight")
            made = total(samples, "imagemint_images_total")
            inside = total(samples, "imagemint_inflight_requests", service=service)
            done = total(samples, "imagemint_requests_total", service=service)
            all_wait.held, before, all_wait.made = held, all_wait.made, made
            return held > 10 * MEBIBYTE and inside + done == 100 and made == before

        all_wait.made = -1
        await until(all_wait)
        assert all_wait.held <= 16 * MEBIBYTE
        # Each byte is counted at least three times, and bytes that were sent are not included.
        assert all_wait.made * 128 * 128 * 3 <= 8 * MEBIBYTE
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 8)) == 8
            chunks = [len(chunk) async for chunk in client.stream("digits", 100)]
            assert sum(chunks) == 100

    async def all_given_back():
        return not total(await scrape(app.metrics_address), "imagemint_bytes_in_flight")

    await until(all_given_back)


async def test_stalled_client_is_disconnected(serve, large, scrape, total):
    """A client that reads nothing for `stall_timeout_s` is disconnected and frees its calls."""
    app = await serve(large, stall_timeout_s=0.5, max_concurrent_calls=4)
    async with greedy_client(app.grpc_address) as greedy:
        for _ in range(3):
            greedy.call(STREAM, make_stream_request())
        async with asyncio.timeout(WAIT_S):
            await greedy.closed()
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 1)) == 1
    samples = await scrape(app.metrics_address)
    # The first stalled call ends the connection. Calls that have waited for less end with it.
    assert 1 <= total(samples, "imagemint_ended_calls_total", reason="stalled") <= 3


async def test_unread_single_answer_is_stalled(serve, large, scrape, total):
    """A client that does not read the answer of a call without a stream is disconnected, too."""
    app = await serve(large, stall_timeout_s=0.5)
    async with greedy_client(app.grpc_address) as greedy:
        greedy.call(GENERATE, pb.GenerateRequest(images={"model": "digits", "count": 40}))
        async with asyncio.timeout(WAIT_S):
            await greedy.closed()
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_ended_calls_total", reason="stalled") == 1


async def test_slow_reader_is_not_stalled(serve, large):
    """A client that reads a chunk from time to time keeps its stream."""
    app = await serve(large, stall_timeout_s=4.0)
    options = [("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        stream = channel.unary_stream(
            STREAM, pb.StreamGenerateRequest.SerializeToString, pb.StreamGenerateResponse.FromString
        )(make_stream_request(count=18, chunk_size=3))
        indices = []
        async for chunk in stream:
            indices += [image.index for image in chunk.batch.images]
            await asyncio.sleep(0.8)  # all six together take longer than the limit
    assert indices == list(range(18))


async def test_paused_reader_loses_chunks_ahead(serve, large, scrape, total, until):
    """A reader that stops holds one chunk and gets the rest when it continues.

    Chunks that were computed ahead are computed again: the same pixels without a gap.
    """
    app = await serve(large)
    async with AsyncClient(app.grpc_address) as client:
        expected = await client.generate("digits", 20, seed=3)
    options = [("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        stream = channel.unary_stream(
            STREAM, pb.StreamGenerateRequest.SerializeToString, pb.StreamGenerateResponse.FromString
        )(_make_seeded_request(3))
        pictures = [picture async for picture in _read_some(stream, 8)]

        async def little_is_held():
            held = total(await scrape(app.metrics_address), "imagemint_bytes_in_flight")
            return held == 3 * 2 * 128 * 128 * 3

        await until(little_is_held)
        pictures += [picture async for picture in _read_some(stream, 12)]
        stream.cancel()
    assert pictures == [image.tobytes() for image in expected.image]


def _make_seeded_request(seed):
    return pb.StreamGenerateRequest(
        images={"model": "digits", "count": 200, "seed": seed}, chunk_size=2
    )


async def _read_some(stream, count):
    """Yields the next pictures of a stream."""
    while count:
        chunk = await stream.read()
        for picture in chunk.batch.pictures:
            yield picture
            count -= 1


async def test_calls_of_an_address_are_limited(serve, large):
    """An address may have three quarters of all calls, so others have room."""
    app = await serve(large, max_concurrent_calls=8)
    async with greedy_client(app.grpc_address) as greedy, AsyncClient(app.grpc_address) as client:
        for _ in range(20):
            greedy.call(STREAM, make_stream_request())
        streams = [client.stream("digits", 10**6) for _ in range(2)]
        for stream in streams:
            assert len(await anext(stream))
        for stream in streams:
            await stream.aclose()


KEYS = {name: f"imk_{name:k<43}" for name in ("greedy", "other", "new")}


def make_key_file(**clients):
    """Returns a key file with the key of each client and the models that it may use."""
    return "".join(
        f'[[key]]\nname = "{name}"\nsha256 = "{compute_digest(KEYS[key])}"\nmodels = {models}\n'
        for name, (key, models) in clients.items()
    )


ANY = '["digits", "others"]'
OTHER = {"other": ("other", ANY)}
WITHDRAWALS = {
    "gone": (make_key_file(**OTHER), Unauthenticated),
    "replaced": (make_key_file(greedy=("new", ANY), **OTHER), Unauthenticated),
    "narrowed": (make_key_file(greedy=("greedy", '["others"]'), **OTHER), PermissionDenied),
}


async def read_all(stream):
    """Reads a stream to its end."""
    async for _ in stream:
        pass


@pytest.mark.parametrize("withdrawal", WITHDRAWALS)
async def test_key_change_ends_running_streams(serve, large, tmp_path, withdrawal):
    """Streams of a key that is removed, replaced or restricted end, read or not."""
    path = tmp_path / "keys.toml"
    path.write_text(make_key_file(greedy=("greedy", ANY), **OTHER))
    app = await serve(large, api_keys=path, max_concurrent_calls=8)
    bearers = {name: {"metadata": [("x-api-key", key)]} for name, key in KEYS.items()}
    async with (
        greedy_client(app.grpc_address) as greedy,
        AsyncClient(app.grpc_address, **bearers["greedy"]) as client,
        AsyncClient(app.grpc_address, **bearers["other"]) as other,
    ):
        stream = client.stream("digits", 10**9)
        await anext(stream)
        for _ in range(5):
            greedy.call(STREAM, make_stream_request(), x_api_key=KEYS["greedy"])
        unaffected = other.stream("digits", 10**9)
        await anext(unaffected)
        text, error = WITHDRAWALS[withdrawal]
        path.write_text(text)
        async with asyncio.timeout(WAIT_S):
            await greedy.closed()
            with pytest.raises(error):
                await read_all(stream)
        await anext(unaffected)
        await unaffected.aclose()


async def test_removed_key_ends_a_waiting_call(serve, models, tmp_path):
    """A queued call gets UNAUTHENTICATED, and its work is dropped."""
    # The held fixture has no keys. A stream with a rate near zero also waits.
    path = tmp_path / "keys.toml"
    slow = "rate_images_per_s = 0.001\nburst_images = 2\n"
    path.write_text(make_key_file(greedy=("greedy", ANY)) + slow)
    app = await serve(models, api_keys=path)
    metadata = [("x-api-key", KEYS["greedy"])]
    async with AsyncClient(app.grpc_address, metadata=metadata) as client:
        stream = client.stream("digits", 10)
        await anext(stream)
        path.write_text(make_key_file(**OTHER))
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(Unauthenticated):
                await read_all(stream)


async def read_to_the_end(reader):
    """Discards what a connection receives until it is closed."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(2**16):
            pass


async def test_idle_connections_are_closed_for_new_callers(serve, models):
    """Idle connections are closed before new callers are refused. Busy ones stay."""
    app = await serve(models, max_connections=16)
    host, _, port = app.grpc_address.rpartition(":")
    async with AsyncClient(app.grpc_address) as busy, contextlib.AsyncExitStack() as opened:
        stream = busy.stream("digits", 10**9)
        await anext(stream)
        idle = []
        for _ in range(15):
            reader, writer = await asyncio.open_connection(
                host, int(port), local_addr=("127.0.0.2", 0)
            )
            opened.callback(writer.close)
            idle.append(asyncio.ensure_future(read_to_the_end(reader)))
        # The oldest one, unless a later one has the descriptor of a file that was closed.
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait(idle, return_when=asyncio.FIRST_COMPLETED)
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 1)) == 1
        await anext(stream)
        await stream.aclose()
        for each in idle:
            each.cancel()
        await asyncio.gather(*idle, return_exceptions=True)


async def test_watching_health_keeps_no_connection(serve, models):
    """If connections are scarce, those that only watch health are closed, and busy ones stay."""
    app = await serve(models, max_connections=16)
    async with AsyncClient(app.grpc_address) as busy, contextlib.AsyncExitStack() as opened:
        stream = busy.stream("digits", 10**9)
        await anext(stream)
        watches = []
        for _ in range(14):
            channel = await opened.enter_async_context(
                grpc.aio.insecure_channel(app.grpc_address, options=APART)
            )
            watches.append(health_pb2_grpc.HealthStub(channel).Watch(WATCHED))
            await watches[-1].read()
        ends = {asyncio.ensure_future(watch.read()) for watch in watches}
        async with asyncio.timeout(WAIT_S):
            ended, rest = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(grpc.aio.AioRpcError):
            await ended.pop()
        for end in rest | ended:
            end.cancel()
        await asyncio.gather(*rest, *ended, return_exceptions=True)
        await anext(stream)
        await stream.aclose()
