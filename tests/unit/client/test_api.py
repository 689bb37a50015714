"""The calls: what reaches the wire, and what comes back."""

import asyncio
import inspect
import subprocess
import sys

import grpc
import numpy as np
import pytest

from imagemint import client
from imagemint.client import AsyncClient, Cycle, PerImage, Weights
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2


@pytest.fixture
async def asynchronous(address):
    """A client of `mint`."""
    async with AsyncClient(address) as opened:
        yield opened


def test_exported_names_are_listed():
    """`__all__` holds exactly the public names that are no modules, in order."""
    names = [
        name
        for name, value in vars(client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    ]
    assert client.__all__ == sorted(names)


def test_import_is_light():
    """The library imports neither pydantic nor Pillow, nor anything of the extras."""
    code = (
        "import sys, imagemint.client;"
        "print(sorted({'pydantic', 'PIL', 'tqdm', 'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_priority_is_sent(asynchronous, mint):
    """By every call for images; normal unless it says otherwise."""
    await asynchronous.generate("tiny", priority="high")
    await asynchronous.encoded("tiny", priority="high")
    await asynchronous.sheet("tiny", 1, priority="high")
    async for _ in asynchronous.stream("tiny", 1, priority="high"):
        pass
    async for _ in asynchronous.stream_encoded("tiny", 1, priority="high"):
        pass
    await asynchronous.generate("tiny")
    high, normal = pb.PRIORITY_HIGH, pb.PRIORITY_NORMAL
    assert [request.priority for request in mint.requests] == [high] * 5 + [normal]


async def test_unknown_priority_is_refused(asynchronous, mint):
    """Before anything is sent."""
    with pytest.raises(client.InvalidRequest, match="'urgent' is none of normal, high"):
        await asynchronous.generate("tiny", priority="urgent")
    assert not mint.requests


async def test_generate_sends_every_parameter(asynchronous, mint):
    """Each argument stands in the request."""
    await asynchronous.generate(
        "tiny",
        3,
        seed=2**64 - 1,
        first_index=5,
        condition=2,
        truncation=0.0,
        version="7",
    )
    (request,) = mint.requests
    expected = image_pb2.ImageSpec(
        model="tiny",
        version="7",
        seed=2**64 - 1,
        first_index=5,
        count=3,
        class_id=2,
        truncation=0.0,
    )
    assert request.images == expected
    assert request.images.HasField("truncation")


@pytest.mark.parametrize(
    ("condition", "field", "value"),
    [
        (0, "class_id", 0),
        (np.int64(2), "class_id", 2),
        ("one", "class_label", "one"),
        (PerImage([2, 0]), "class_per_image", image_pb2.ClassPerImage(class_ids=[2, 0])),
        (Cycle([1, 2]), "class_cycle", image_pb2.ClassCycle(class_ids=[1, 2])),
        (Cycle(), "class_cycle", image_pb2.ClassCycle()),
        (Weights([1, 0.5, 0]), "class_weights", image_pb2.ClassWeights(weights=[1, 0.5, 0])),
    ],
)
async def test_condition_reaches_wire(asynchronous, mint, condition, field, value):
    """Each kind of condition fills its own field."""
    await asynchronous.generate("tiny", 2, condition=condition)
    images = mint.requests[0].images
    assert images.WhichOneof("condition") == field
    assert getattr(images, field) == value


async def test_nothing_asked_sends_nothing(asynchronous, mint):
    """What is not given is absent, so that the server's defaults apply."""
    await asynchronous.generate("tiny")
    images = mint.requests[0].images
    assert images.WhichOneof("source") is None
    assert images.WhichOneof("condition") is None
    assert not images.HasField("truncation")


async def test_latents_reach_wire(asynchronous, mint):
    """Latents go image by image; the answer then has neither seed nor serials."""
    batch = await asynchronous.generate("plain", 2, latents=np.array([[0.5, -1], [2, 3]]))
    assert list(mint.requests[0].images.latents.values) == [0.5, -1, 2, 3]
    assert batch.seed is None
    assert batch.serials == ()


async def test_batch_holds_pixels_and_origin(asynchronous):
    """The arrays have the agreed types and shapes; a seed that the server picked is told."""
    batch = await asynchronous.generate("tiny", 3, first_index=1)
    assert (batch.image.dtype, batch.image.shape) == (np.uint8, (3, 4, 6, 1))
    assert (batch.class_id.dtype, batch.class_id.tolist()) == (np.int64, [1, 2, 0])
    assert (batch.index.dtype, batch.index.tolist()) == (np.uint64, [1, 2, 3])
    assert batch.seed == 2**64 - 3
    assert batch.serials[0] == f"tiny@3/{2**64 - 3}/1?class=1"
    assert batch.timing.inference_s == pytest.approx(0.005)
    assert [each.size for each in batch.pil()] == [(6, 4)] * 3


async def test_unconditional_batch_has_no_class(asynchronous):
    """A model without classes leaves class_id None."""
    assert (await asynchronous.generate("plain")).class_id is None


async def test_mint_repeats_serial(asynchronous):
    """A serial brings back the very pixels of the batch that it stood in."""
    batch = await asynchronous.generate("tiny", 4, seed=9, condition=1, truncation=0.7)
    again = await asynchronous.mint(batch.serials[3])
    assert np.array_equal(again.image[0], batch.image[3])
    assert again.serials == (batch.serials[3],)


async def test_mint_takes_many_serials(asynchronous, mint):
    """Any order and duplicates; neighbours share a call, and the order is kept."""
    batch = await asynchronous.generate("tiny", 6, seed=9)
    order = [4, 0, 1, 4, 2]
    mint.requests.clear()
    again = await asynchronous.mint([batch.serials[at] for at in order])
    assert again.serials == tuple(batch.serials[at] for at in order)
    assert np.array_equal(again.image, batch.image[order])
    assert again.class_id.tolist() == batch.class_id[order].tolist()
    assert sorted(each.images.count for each in mint.requests[1:]) == [1, 1, 3]


@pytest.mark.parametrize(
    "serials", [[], ["tiny@3/1/0", "other@3/1/0"], ["tiny@3/1/0", "tiny@4/1/0"]]
)
async def test_mint_refuses_none_and_several_models(asynchronous, mint, serials):
    """One batch is of one model and version."""
    with pytest.raises(client.InvalidRequest, match="serial"):
        await asynchronous.mint(serials)
    assert not mint.requests


async def test_encoded_gives_one_picture_each(asynchronous, mint):
    """Format and quality reach the wire; each picture knows its serial and decodes."""
    pictures = await asynchronous.encoded("tiny", 2, seed=1, format="png")
    assert [each.serials for each in pictures] == [("tiny@3/1/0?class=0",), ("tiny@3/1/1?class=1",)]
    assert pictures[0].pil().size == (6, 4)
    await asynchronous.encoded("tiny", 2, format="jpeg", quality=70)
    assert mint.requests[1].output.quality == 70
    assert mint.requests[1].output.format == image_pb2.IMAGE_FORMAT_JPEG


async def test_sheet_gives_one_picture_of_all(asynchronous, mint):
    """Layout and columns reach the wire; the picture holds every serial."""
    sheet = await asynchronous.sheet("tiny", 6, columns=3, seed=1)
    assert mint.requests[0].layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert mint.requests[0].columns == 3
    assert len(sheet.serials) == 6
    assert (sheet.height, sheet.width) == (40, 60)


async def test_models_reads_every_page(asynchronous):
    """The list spans the pages, with states, limits and manifests."""
    tiny, zebra = await asynchronous.models()
    assert (tiny.name, tiny.default_version, tiny.limits.default_chunk_size) == ("tiny", "3", 4)
    assert tiny.manifest().class_labels == ("zero", "one", "two")
    assert tiny.manifest().truncation == client.Truncation("threshold", 0.1, 2.0)
    assert tiny.manifest("4") is None
    assert zebra.versions[0].state is client.ModelState.FAILED
    assert zebra.versions[0].reason == "checksum mismatch"


async def test_model_asks_by_name(asynchronous, mint):
    """model() names the model that it wants."""
    assert (await asynchronous.model("tiny")).name == "tiny"
    assert mint.requests[0].model == "tiny"


async def test_deadline_of_call_passes(asynchronous, mint):
    """A server that does not answer in time is given up, and told so."""
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded) as caught:
        await asynchronous.generate("tiny", timeout_s=0.05)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_default_deadline_and_metadata_go_with_calls(address, mint):
    """The client's own timeout and metadata reach the server."""
    pairs = [("authorization", "Bearer x")]
    async with AsyncClient(address, timeout_s=17, metadata=pairs) as asynchronous:
        await asynchronous.generate("tiny")
    assert 10 < mint.deadlines_s[0] < 18  # on the wire a timeout is rounded up
    assert mint.metadata[0]["authorization"] == "Bearer x"


async def test_large_answer_is_received(asynchronous):
    """An answer beyond gRPC's own limit of 4 MB arrives."""
    batch = await asynchronous.generate("tiny", 60_000, seed=1)
    assert len(batch) == 60_000


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"count": -1}, "count"),
        ({"count": 1.5}, "count"),
        ({"seed": 2**64}, "seed"),
        ({"first_index": -1}, "first_index"),
        ({"condition": -1}, "class_id"),
        ({"condition": True}, "condition"),
        ({"condition": 1.5}, "class_id"),
        ({"count": 2, "latents": [[1, 2]]}, "latents"),
        ({"latents": [1.0]}, "latents"),
        ({"latents": [[1.0]], "seed": 1}, "latents"),
    ],
)
async def test_impossible_argument_is_refused(asynchronous, mint, arguments, field):
    """What cannot be sent raises InvalidRequest that names the field, before any call."""
    with pytest.raises(client.InvalidRequest) as caught:
        await asynchronous.generate("tiny", **arguments)
    assert caught.value.violations[0].field == field
    assert not mint.requests


@pytest.mark.parametrize("calls", ["generate", "stream"])
async def test_close_is_an_error_in_other_tasks(address, mint, calls):
    """A task whose client is closed raises ClientClosed; a TaskGroup must not take it for done."""
    asynchronous = AsyncClient(address)

    async def ask():
        if calls == "generate":
            await asynchronous.generate("tiny")
        else:
            async for _ in asynchronous.stream("tiny", 4):
                pass

    async def close():
        await asyncio.to_thread(mint.asked.wait, 30)
        await asynchronous.close()

    async def both():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
            tasks.create_task(close())

    mint.silent = True
    with pytest.raises(ExceptionGroup) as caught:
        await both()
    (error,) = caught.value.exceptions
    assert isinstance(error, client.ClientClosed)
    assert error.reason == "CLIENT_CLOSED"


async def test_close_between_chunks_is_an_error(address):
    """A stream whose client is closed while nobody reads raises at the next chunk."""
    asynchronous = AsyncClient(address)
    chunks = asynchronous.stream("tiny", 10**6, seed=1)
    await anext(chunks)
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await anext(chunks)


async def test_own_cancellation_stays_one(address, mint):
    """A task that is cancelled itself raises CancelledError, also if the client is closed too."""
    asynchronous = AsyncClient(address)
    mint.silent = True
    task = asyncio.create_task(asynchronous.generate("tiny"))
    await asyncio.to_thread(mint.asked.wait, 30)
    task.cancel()
    await asynchronous.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closed_client_refuses_calls(address):
    """A call after close() raises instead of opening a new connection."""
    asynchronous = AsyncClient(address)
    await asynchronous.generate("tiny")
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await asynchronous.generate("tiny")
