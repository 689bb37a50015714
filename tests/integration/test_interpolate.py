"""Tests of interpolation between serials: frames, animations and errors."""

import asyncio
import io

import grpc
import numpy as np
import pytest
from PIL import Image, ImageSequence

from imagemint.client import FailedPrecondition, InvalidRequest, NotFound, cli
from imagemint.engine.serial import Serial
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = (
    f"digits@1/{seed}/{index}?class={k}" for seed, index, k in ((1, 0, 3), (2, 5, 3), (9, 9, 4))
)


async def collect(frames):
    """Returns the pixels of all frames and their batches."""
    batches = [batch async for batch in frames]
    return np.concatenate([batch.image for batch in batches]), batches


async def test_waypoints_are_the_images_of_their_serials(client):
    """Frames at a serial have exactly its pixels."""
    pixels, batches = await collect(client.interpolate([A, C, B], 21))
    assert pixels.shape == (21, 4, 6, 1)
    wanted = await client.mint([A, C, B])
    assert np.array_equal(pixels[[0, 10, 20]], wanted.image)
    assert [int(index) for batch in batches for index in batch.index] == list(range(21))
    classes = [int(each) for batch in batches for each in batch.class_id]
    # Half-way between two serials, the one at an even position counts as nearer.
    assert classes == [3] * 6 + [4] * 9 + [3] * 6
    assert len({pixel.tobytes() for pixel in pixels}) > 10


@pytest.mark.parametrize(
    "serials",
    [
        ("plain@1/1/0", "plain@1/2/0"),
        ("bounded@1/1/0?class=1&truncation=0.5", "bounded@1/2/0?class=2&truncation=2.0"),
        ("styled@1/1/0?class=1&truncation=0.5", "styled@1/2/0?class=1&truncation=0.5"),
        ("people@1/1/0?caption=red%20hair", "people@1/2/0?caption=red%20hair"),
    ],
)
async def test_every_kind_of_model_interpolates(client, generation, serials):
    """Models may have no classes, a threshold at each end, or psi."""
    pixels, _ = await collect(client.interpolate(serials, 9))
    for end, serial in ((0, serials[0]), (-1, serials[1])):
        parts = Serial.parse(serial)
        images = {"model": parts.model, "seed": parts.seed, "first_index": parts.index, "count": 1}
        terms = {name: getattr(parts, name) for name in ("class_id", "caption", "truncation")}
        answer = await generation.Generate(pb.GenerateRequest(images=images | terms))
        assert pixels[end].tobytes() == answer.batch.pictures[0]


@pytest.mark.parametrize("kind", ["webp", "gif", "apng"])
async def test_animation_has_the_frames(client, kind):
    """Frames are in order and repeat forever, and lossless formats have exact pixels."""
    pixels, _ = await collect(client.interpolate([A, B], 8))
    quality = 100 if kind == "webp" else None
    data = await client.animate([A, B], 8, format=kind, frame_ms=40, quality=quality)
    picture = Image.open(io.BytesIO(data))
    assert picture.n_frames == 8
    assert picture.info["loop"] == 0
    shown = np.stack([np.asarray(each.convert("L")) for each in ImageSequence.Iterator(picture)])
    assert np.array_equal(shown, pixels[..., 0])
    assert A.encode() in data
    assert b"trainedAlgorithmicMedia" in data
    there_and_back = await client.animate([A, B], 8, format=kind, bounces=True)
    assert Image.open(io.BytesIO(there_and_back)).n_frames == 14


async def test_frames_may_be_encoded(generation):
    """Frames are PNG in chunks with times."""
    request = pb.InterpolateRequest(
        serials=[A, B], frames=30, output={"format": image_pb2.IMAGE_FORMAT_PNG}
    )
    chunks = [chunk async for chunk in generation.Interpolate(request)]
    pictures = [picture for chunk in chunks for picture in chunk.batch.pictures]
    assert len(pictures) == 30
    assert all(Image.open(io.BytesIO(picture)).size == (6, 4) for picture in pictures)
    assert all(chunk.HasField("timing") and not chunk.animation for chunk in chunks)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"serials": [A]}, {"serials"}),
        ({"serials": [A] * 65, "frames": 65}, {"serials"}),
        ({"serials": [A, "digits@1"]}, {"serials[1]"}),
        ({"serials": [A, "plain@1/1/1"]}, {"serials[1]"}),
        ({"serials": [A, "digits@1/1/1?class=10"]}, {"serials[1]"}),
        ({"serials": [A, f"{B}&truncation=0.5"]}, {"serials[0]", "serials[1]"}),
        ({"serials": ["people@1/1/0", "people@1/1/1"]}, {"serials[0]", "serials[1]"}),
        ({"serials": ["plain@1/1/0?class=1", "plain@1/1/1"]}, {"serials[0]"}),
        ({"frames": 1}, {"frames"}),
        ({"serials": [A, B, C], "frames": 2}, {"frames"}),
        ({"frames": 1025}, {"frames"}),
        ({"animation": {"format": 9}}, {"animation.format"}),
        ({"animation": {"format": 2, "quality": 5}}, {"animation.quality"}),
        ({"animation": {"quality": 0, "frame_ms": 5}}, {"animation.quality", "animation.frame_ms"}),
        ({"animation": {}, "output": {}}, {"output"}),
    ],
)
async def test_invalid_requests_are_refused(generation, details_of, changes, fields):
    """The error has every violation."""
    request = pb.InterpolateRequest(**({"serials": [A, B], "frames": 10} | changes))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generation.Interpolate(request).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(caught.value)["BadRequest"].field_violations
    wanted = fields if "truncation" not in str(changes) else {"serials[1]"}
    assert {violation.field for violation in violations} == wanted


async def test_errors_equal_those_of_other_calls(client):
    """Unknown models, other variants and mismatched serials have the usual errors."""
    with pytest.raises(NotFound):
        await client.animate(["absent@1/1/1", "absent@1/1/2"])
    with pytest.raises(FailedPrecondition):
        await client.animate(["digits@1+int8/1/1", "digits@1+int8/1/2"])
    with pytest.raises(InvalidRequest):
        await client.animate([A, "plain@1/1/1"])
    with pytest.raises(InvalidRequest):
        await client.animate(A)


async def test_command_writes_an_animation(app, tmp_path, capsys):
    """`imagemint generate --interpolate A,B` writes an animation."""
    out, serials = tmp_path / "walk.webp", f"--interpolate={A},{B}"

    async def run(*arguments):
        line = ["generate", f"--server={app.grpc_address}", *arguments]
        status = await asyncio.to_thread(cli.main, line)
        return status, "".join(capsys.readouterr())

    status, text = await run(serials, "--frames=6", f"--out={out}")
    assert status == 0
    assert "6 frames" in text
    assert Image.open(io.BytesIO(out.read_bytes())).n_frames == 6
    for arguments, message in (
        ((serials, "--out=walk.npz"), "walk.npz is none of NAME.webp"),
        (("--model=digits", f"--out={tmp_path}/walk.gif"), "needs --interpolate"),
        (("--model=digits", "--frames=3", f"--out={tmp_path}/a.png"), "--frames needs"),
        ((serials, "--seed=3", f"--out={tmp_path}/b.gif"), "excludes --seed"),
    ):
        status, text = await run(*arguments)
        assert status == 2
        assert message in text
