"""Tests of the client's calls: requests on the wire, and results."""

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
    """An asyncio client of `mint`."""
    async with AsyncClient(address) as opened:
        yield opened


def test_all_lists_the_public_names():
    """`__all__` is the sorted list of public names that are not modules."""
    names = [
        name
        for name, value in vars(client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    ]
    assert client.__all__ == sorted(names)


def test_import_loads_no_optional_package():
    """The library imports neither pydantic nor Pillow, nor a package of the extras."""
    code = (
        "import sys, imagemint.client;"
        "print(sorted({'pydantic', 'PIL', 'tqdm', 'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_priority_is_sent(asynchronous, mint):
    """Every call for images sends the priority. The default is normal."""
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
    """An unknown priority raises an error before anything is sent."""
    with pytest.raises(client.InvalidRequest, match="'urgent' is none of normal, high"):
        await asynchronous.generate("tiny", priority="urgent")
    assert not mint.requests


async def test_generate_sends_every_parameter(asynchronous, mint):
    """Each argument is in the request."""
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
async def test_condition_is_sent(asynchronous, mint, condition, field, value):
    """Each kind of condition sets its own field."""
    await asynchronous.generate("tiny", 2, condition=condition)
    images = mint.requests[0].images
    assert images.WhichOneof("condition") == field
    assert getattr(images, field) == value


async def test_missing_arguments_are_not_sent(asynchronous, mint):
    """Fields of missing arguments are absent, so that the server's defaults apply."""
    await asynchronous.generate("tiny")
    images = mint.requests[0].images
    assert images.WhichOneof("source") is None
    assert images.WhichOneof("condition") is None
    assert not images.HasField("truncation")


async def test_latents_are_sent(asynchronous, mint):
    """Latents are sent image by image. The result has neither seed nor serials."""
    batch = await asynchronous.generate("plain", 2, latents=np.array([[0.5, -1], [2, 3]]))
    assert list(mint.requests[0].images.latents.values) == [0.5, -1, 2, 3]
    assert batch.seed is None
    assert batch.serials == ()


async def test_batch_has_pixels_and_provenance(asynchronous):
    """Arrays have the documented types and shapes, and the seed is the server's."""
    batch = await asynchronous.generate("tiny", 3, first_index=1)
    assert (batch.image.dtype, batch.image.shape) == (np.uint8, (3, 4, 6, 1))
    assert (batch.class_id.dtype, batch.class_id.tolist()) == (np.int64, [1, 2, 0])
    assert (batch.index.dtype, batch.index.tolist()) == (np.uint64, [1, 2, 3])
    assert batch.seed == 2**64 - 3
    assert batch.serials[0] == f"tiny@3/{2**64 - 3}/1?class=1"
    assert batch.timing.inference_s == pytest.approx(0.005)
    assert [each.size for each in batch.pil()] == [(6, 4)] * 3


async def test_unconditional_batch_has_no_classes(asynchronous):
    """The class ids of a model without classes are None."""
    assert (await asynchronous.generate("plain")).class_id is None


async def test_serial_is_generated_again(asynchronous):
    """A serial gives exactly the pixels that it had in the batch."""
    batch = await asynchronous.generate("tiny", 4, seed=9, condition=1, truncation=0.7)
    again = await asynchronous.mint(batch.serials[3])
    assert np.array_equal(again.image[0], batch.image[3])
    assert again.serials == (batch.serials[3],)


async def test_mint_accepts_many_serials(asynchronous, mint):
    """Serials may come in any order and repeatedly. Adjacent ones share a call."""
    batch = await asynchronous.generate("tiny", 6, seed=9)
    order = [4, 0, 1, 4, 2]
    mint.requests.clear()
    again = await asynchronous.mint([batch.serials[at] for at in order])
    assert again.serials == tuple(batch.serials[at] for at in order)
    assert np.array_equal(again.image, batch.image[order])
    assert again.class_id.tolist() == batch.class_id[order].tolist()
    assert sorted(request.images.count for request in mint.requests[1:]) == [1, 1, 3]


@pytest.mark.parametrize(
    "serials", [[], ["tiny@3/1/0", "other@3/1/0"], ["tiny@3/1/0", "tiny@4/1/0"]]
)
async def test_mint_refuses_no_serials_and_several_models(asynchronous, mint, serials):
    """A batch has one model and version."""
    with pytest.raises(client.InvalidRequest, match="serial"):
        await asynchronous.mint(serials)
    assert not mint.requests


async def test_encoded_returns_one_picture_per_image(asynchronous, mint, tmp_path):
    """Format and quality are sent. Each picture has its serial, can be decoded and is saved."""
    pictures = await asynchronous.encoded("tiny", 2, seed=1, format="png")
    assert [picture.serials for picture in pictures] == [
        ("tiny@3/1/0?class=0",),
        ("tiny@3/1/1?class=1",),
    ]
    assert [picture.serial for picture in pictures] == ["tiny@3/1/0?class=0", "tiny@3/1/1?class=1"]
    assert pictures[0].pil().size == (6, 4)
    pictures[0].save(tmp_path / "0.png")
    assert (tmp_path / "0.png").read_bytes() == pictures[0].data
    await asynchronous.encoded("tiny", 2, format="jpeg", quality=70)
    assert mint.requests[1].output.quality == 70
    assert mint.requests[1].output.format == image_pb2.IMAGE_FORMAT_JPEG


async def test_serial_is_that_of_a_single_image(asynchronous):
    """Several images have several serials, and explicit latents have none."""
    several = await asynchronous.generate("tiny", 2)
    with pytest.raises(ValueError, match="there are 2 images; use serials"):
        _ = several.serial
    unnamed = await asynchronous.generate("plain", 1, latents=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="explicit latents has no serial number"):
        _ = unnamed.serial


async def test_sheet_returns_one_picture_of_all_images(asynchronous, mint):
    """Layout and columns are sent, and the picture has all serials."""
    sheet = await asynchronous.sheet("tiny", 6, columns=3, seed=1)
    assert mint.requests[0].layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert mint.requests[0].columns == 3
    assert len(sheet.serials) == 6
    assert (sheet.height, sheet.width) == (40, 60)


async def test_models_reads_all_pages(asynchronous):
    """The list covers all pages, with states, limits and manifests."""
    tiny, zebra = await asynchronous.models()
    assert (tiny.name, tiny.default_version, tiny.limits.default_chunk_size) == ("tiny", "3", 4)
    assert tiny.manifest().class_labels == ("zero", "one", "two")
    assert tiny.manifest().truncation == client.Truncation("threshold", 0.1, 2.0)
    assert tiny.manifest("4") is None
    assert zebra.versions[0].state is client.ModelState.FAILED
    assert zebra.versions[0].reason == "checksum mismatch"


async def test_model_is_requested_by_name(asynchronous, mint):
    """The request has the name of the model."""
    assert (await asynchronous.model("tiny")).name == "tiny"
    assert mint.requests[0].model == "tiny"


async def test_call_has_a_deadline(asynchronous, mint):
    """A call that the server does not answer in time raises DeadlineExceeded."""
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded) as caught:
        await asynchronous.generate("tiny", timeout_s=0.05)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout_s", [0, -1, -1e-9])
async def test_deadline_that_has_passed_sends_nothing(asynchronous, mint, timeout_s):
    """GRPC would answer some of these calls, and run others in vain."""
    with pytest.raises(client.DeadlineExceeded, match="no time is left"):
        await asynchronous.generate("tiny", timeout_s=timeout_s)
    with pytest.raises(client.DeadlineExceeded, match="no time is left"):
        await anext(asynchronous.stream("tiny", 2, timeout_s=timeout_s))
    assert not mint.requests


async def test_closed_client_cannot_be_entered(address):
    """An async with statement of a closed client raises at once."""
    asynchronous = AsyncClient(address)
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await asynchronous.__aenter__()


async def test_manifest_is_found_by_number_or_text(asynchronous):
    """The version may be a number, as in the arguments of calls."""
    model = await asynchronous.model("tiny")
    assert model.manifest(3) is model.manifest("3") is model.manifest() is not None
    assert model.manifest(9) is None


@pytest.mark.parametrize("endless", [float("inf"), 1e12])
async def test_endless_timeout_sets_no_deadline(asynchronous, mint, endless):
    """A time beyond what gRPC can count is no limit; `nan` is refused."""
    assert len(await asynchronous.generate("tiny", 2, timeout_s=endless)) == 2
    async for chunk in asynchronous.stream("tiny", 2, timeout_s=endless):
        assert len(chunk) == 2
    with pytest.raises(client.InvalidRequest) as caught:
        await asynchronous.generate("tiny", timeout_s=float("nan"))
    assert caught.value.violations[0].field == "timeout_s"


async def test_version_is_a_number_or_its_text(asynchronous, mint):
    """A version goes on the wire as text. Without one, the server chooses."""
    for version in (1, np.int64(1), "1", "", None):
        await asynchronous.generate("tiny", version=version)
    assert [request.images.version for request in mint.requests] == ["1", "1", "1", "", ""]
    with pytest.raises(client.InvalidRequest) as caught:
        await asynchronous.generate("tiny", version=1.5)
    assert caught.value.violations[0].field == "version"


async def test_default_timeout_and_metadata_are_sent(address, mint):
    """The timeout and metadata of the client apply to every call."""
    pairs = [("authorization", "Bearer x")]
    async with AsyncClient(address, timeout_s=300, metadata=pairs) as asynchronous:
        await asynchronous.generate("tiny")
    assert 200 < mint.deadlines_s[0] < 302  # a timeout is rounded up on the wire
    assert mint.metadata[0]["authorization"] == "Bearer x"


async def test_large_response_is_received(asynchronous):
    """A response beyond gRPC's default limit of 4 MB is received."""
    batch = await asynchronous.generate("tiny", 60_000, seed=1)
    assert len(batch) == 60_000


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"count": -1}, "count"),
        ({"count": 1.5}, "count"),
        ({"seed": 2**64}, "seed"),
        ({"first_index": -1}, "first_index"),
        ({"condition": -1}, "condition"),
        ({"condition": True}, "condition"),
        ({"condition": 1.5}, "condition"),
        ({"count": 2, "latents": [[1, 2]]}, "latents"),
        ({"latents": [1.0]}, "latents"),
        ({"latents": [[1.0]], "seed": 1}, "latents"),
    ],
)
async def test_invalid_argument_is_refused(asynchronous, mint, arguments, field):
    """Invalid values raise InvalidRequest with the field before any call."""
    with pytest.raises(client.InvalidRequest) as caught:
        await asynchronous.generate("tiny", **arguments)
    assert caught.value.violations[0].field == field
    assert not mint.requests


@pytest.mark.parametrize("calls", ["generate", "stream"])
async def test_close_raises_in_other_tasks(address, mint, calls):
    """A pending call raises ClientClosed, because a TaskGroup must not consider it successful."""
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


async def test_close_between_chunks_raises(address):
    """A stream of a closed client raises at the next chunk."""
    asynchronous = AsyncClient(address)
    chunks = asynchronous.stream("tiny", 10**6, seed=1)
    await anext(chunks)
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await anext(chunks)


async def test_cancelled_task_raises_cancelled_error(address, mint):
    """A cancelled task raises CancelledError even if its client is also closed."""
    asynchronous = AsyncClient(address)
    mint.silent = True
    task = asyncio.create_task(asynchronous.generate("tiny"))
    await asyncio.to_thread(mint.asked.wait, 30)
    task.cancel()
    await asynchronous.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_client_belongs_to_one_event_loop(asynchronous):
    """A call in another event loop says so. The client still works in its own."""
    await asynchronous.model("mint")
    with pytest.raises(RuntimeError, match="create one for each event loop"):
        await asyncio.to_thread(asyncio.run, asynchronous.model("mint"))
    await asynchronous.model("mint")


async def test_closed_client_refuses_calls(address):
    """A call after close() raises and opens no new connection."""
    asynchronous = AsyncClient(address)
    await asynchronous.generate("tiny")
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await asynchronous.generate("tiny")
