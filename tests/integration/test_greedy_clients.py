"""One caller against the others: answers that nobody takes, and connections that nobody uses."""

import asyncio
import contextlib

import grpc
import pytest
from greedy_client import greedy_client
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
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 128x128 images: 48 kB each, far more than the window of a client at its first."""
    directory = tmp_path_factory.mktemp("large")
    write_bundle(directory, "digits", size=(128, 128, 3))
    return directory


def ask(count=10**6, **more):
    """A stream of images."""
    return pb.StreamGenerateRequest(images={"model": "digits", "count": count}, **more)


def infer(rows):
    """As many images as tensors."""
    request = grpc_service_pb2.ModelInferRequest(model_name="digits")
    for name in ("seed", "index"):
        request.inputs.add(name=name, datatype="UINT64", shape=(rows, 1))
        request.raw_input_contents.append(bytes(8 * rows))
    return request


@pytest.mark.parametrize("kind", ["stream", "chunks", "single", "tensors"])
async def test_untaken_answers_are_bounded(serve, large, scrape, total, until, kind):  # noqa: PLR0917 - fixtures
    """A hundred calls whose client reads nothing hold half of the budget; another is answered."""
    app = await serve(large, max_bytes_in_flight=32 * MEBIBYTE, max_calls_per_caller=200)
    method, request = {
        "stream": (STREAM, ask()),
        "chunks": (STREAM, ask(chunk_size=40)),
        "single": (GENERATE, pb.GenerateRequest(images={"model": "digits", "count": 40})),
        "tensors": (INFER, infer(40)),
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
        # Each byte that was made is counted three times at least, and what was sent is not in it.
        assert all_wait.made * 128 * 128 * 3 <= 8 * MEBIBYTE
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 8)) == 8
            chunks = [len(chunk) async for chunk in client.stream("digits", 100)]
            assert sum(chunks) == 100

    async def all_given_back():
        return not total(await scrape(app.metrics_address), "imagemint_bytes_in_flight")

    await until(all_given_back)


async def test_stalled_client_is_disconnected(serve, large, scrape, total):
    """Whoever takes nothing for `stall_timeout_s` loses its connection, and frees its places."""
    app = await serve(large, stall_timeout_s=0.5, max_concurrent_calls=4)
    async with greedy_client(app.grpc_address) as greedy:
        for _ in range(3):
            greedy.call(STREAM, ask())
        async with asyncio.timeout(WAIT_S):
            await greedy.closed()
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 1)) == 1
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_ended_calls_total", reason="stalled") == 3


async def test_slow_reader_is_not_stalled(serve, large):
    """A reader that takes a chunk now and then keeps its stream, though it takes long over all."""
    app = await serve(large, stall_timeout_s=1.2)
    options = [("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        stream = channel.unary_stream(
            STREAM, pb.StreamGenerateRequest.SerializeToString, pb.StreamGenerateResponse.FromString
        )(ask(count=12, chunk_size=3))
        indices = []
        async for chunk in stream:
            indices += [image.index for image in chunk.batch.images]
            await asyncio.sleep(0.6)  # all four together take longer than the limit
    assert indices == list(range(12))


async def test_stopped_reader_loses_what_was_made_ahead(serve, large, scrape, total, until):
    """A reader that has read fast and then stops holds a chunk, and gets the rest when it goes on.

    What was made ahead is made again: the same pixels, without a gap.
    """
    app = await serve(large)
    async with AsyncClient(app.grpc_address) as client:
        expected = await client.generate("digits", 20, seed=3)
    options = [("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        stream = channel.unary_stream(
            STREAM, pb.StreamGenerateRequest.SerializeToString, pb.StreamGenerateResponse.FromString
        )(_seeded(3))
        pictures = [picture async for picture in _some(stream, 8)]

        async def little_is_held():
            held = total(await scrape(app.metrics_address), "imagemint_bytes_in_flight")
            return held == 3 * 2 * 128 * 128 * 3

        await until(little_is_held)
        pictures += [picture async for picture in _some(stream, 12)]
        stream.cancel()
    assert pictures == [image.tobytes() for image in expected.image]


def _seeded(seed):
    return pb.StreamGenerateRequest(
        images={"model": "digits", "count": 200, "seed": seed}, chunk_size=2
    )


async def _some(stream, count):
    """The next pictures of a stream."""
    while count:
        chunk = await stream.read()
        for picture in chunk.batch.pictures:
            yield picture
            count -= 1


async def test_calls_of_an_address_are_limited(serve, large):
    """Three quarters of all calls are what one address may have; another finds room."""
    app = await serve(large, max_concurrent_calls=8)
    async with greedy_client(app.grpc_address) as greedy, AsyncClient(app.grpc_address) as client:
        for _ in range(20):
            greedy.call(STREAM, ask())
        streams = [client.stream("digits", 10**6) for _ in range(2)]
        for stream in streams:
            assert len(await anext(stream))
        for stream in streams:
            await stream.aclose()


KEYS = {name: f"imk_{name:k<43}" for name in ("greedy", "other", "new")}


def key_file(**clients):
    """A key file: by name, the key of each client and the models that it may use."""
    return "".join(
        f'[[key]]\nname = "{name}"\nsha256 = "{compute_digest(KEYS[key])}"\nmodels = {models}\n'
        for name, (key, models) in clients.items()
    )


ANY = '["digits", "others"]'
OTHER = {"other": ("other", ANY)}
WITHDRAWALS = {
    "gone": (key_file(**OTHER), Unauthenticated),
    "replaced": (key_file(greedy=("new", ANY), **OTHER), Unauthenticated),
    "narrowed": (key_file(greedy=("greedy", '["others"]'), **OTHER), PermissionDenied),
}


async def drained(stream):
    """Reads a stream to its end."""
    async for _ in stream:
        pass


@pytest.mark.parametrize("withdrawal", WITHDRAWALS)
async def test_withdrawal_ends_what_is_under_way(serve, large, tmp_path, withdrawal):
    """A key taken out, replaced under its name, or narrowed: its streams end, read or not."""
    path = tmp_path / "keys.toml"
    path.write_text(key_file(greedy=("greedy", ANY), **OTHER))
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
            greedy.call(STREAM, ask(), x_api_key=KEYS["greedy"])
        unaffected = other.stream("digits", 10**9)
        await anext(unaffected)
        text, error = WITHDRAWALS[withdrawal]
        path.write_text(text)
        async with asyncio.timeout(WAIT_S):
            await greedy.closed()
            with pytest.raises(error):
                await drained(stream)
        await anext(unaffected)
        await unaffected.aclose()


async def test_withdrawal_ends_a_call_that_waits(serve, models, tmp_path):
    """A call in the queue is answered UNAUTHENTICATED, and its work is dropped."""
    # The held fixture has no keys: a stream at a rate of nearly nothing waits just as well.
    path = tmp_path / "keys.toml"
    slow = "rate_images_per_s = 0.001\nburst_images = 2\n"
    path.write_text(key_file(greedy=("greedy", ANY)) + slow)
    app = await serve(models, api_keys=path)
    metadata = [("x-api-key", KEYS["greedy"])]
    async with AsyncClient(app.grpc_address, metadata=metadata) as client:
        stream = client.stream("digits", 10)
        await anext(stream)
        path.write_text(key_file(**OTHER))
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(Unauthenticated):
                await drained(stream)


async def test_idle_connections_make_room(serve, models):
    """Connections without a call are closed before new callers are turned away; busy ones stay."""
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
            idle.append(reader)
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                while await idle[0].read(2**16):
                    pass
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("digits", 1)) == 1
        await anext(stream)
        await stream.aclose()
