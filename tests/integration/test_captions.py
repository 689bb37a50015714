"""Tests of captions over gRPC: requests, streams, tensors, errors, serials and the command."""

import asyncio
import struct

import grpc
import numpy as np
import pytest
import pytest_asyncio
from tiny_bundles import EXAMPLES, MAX_WORDS, WORDS

from imagemint.client import Caption, FailedPrecondition, InvalidRequest, cli
from imagemint.engine.batch import Batch
from imagemint.engine.captions import Captions
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.open_inference import grpc_service_pb2 as oip
from imagemint.open_inference import grpc_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

KNOWN = Captions(WORDS, MAX_WORDS, EXAMPLES)
RED = "a person with red hair"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def inference(app, connect):
    """The stub of GRPCInferenceService."""
    async with connect(app) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def compute_images(engines, captions, seed, first=0):
    """Returns the images of captions from the engine."""
    batch = Batch(draw_latents(seed, first, len(captions), 8), tokens=KNOWN.encode(captions))
    return engines["people"].run(batch)


async def test_caption_determines_the_image(client, engines):
    """Case and punctuation do not matter, and the response has the normal form."""
    batch = await client.generate(
        "people", 3, seed=5, condition=Caption("A person, with RED hair!")
    )
    assert batch.captions == (RED,) * 3
    assert batch.class_id is None
    assert np.array_equal(batch.image, compute_images(engines, [RED] * 3, 5))
    other = await client.generate("people", 3, seed=5, condition=Caption("blue hair"))
    assert not np.array_equal(batch.image, other.image)
    assert batch.serials[1] == "people@1/5/1?caption=a%20person%20with%20red%20hair"


async def test_missing_caption_is_drawn(client, engines):
    """Each image gets an example caption from the stream of its seed."""
    batch = await client.generate("people", 20, seed=5, first_index=7)
    expected = [EXAMPLES[number] for number in draw_classes(5, 7, 20, len(EXAMPLES))]
    assert list(batch.captions) == expected
    assert np.array_equal(batch.image, compute_images(engines, expected, 5, 7))


async def test_serials_with_captions_are_generated_again(client):
    """Serials may come in any order, with drawn and requested captions and truncation."""
    drawn = await client.generate("people", 9, seed=1)
    asked = await client.generate("people", 2, seed=1, condition=Caption(RED), truncation=0.5)
    serials = [*drawn.serials, *asked.serials][::-1]
    again = await client.mint(serials)
    assert np.array_equal(again.image, np.concatenate([drawn.image, asked.image])[::-1])
    assert again.serials == tuple(serials)
    assert again.captions == (*drawn.captions, *asked.captions)[::-1]


@pytest.mark.parametrize("condition", [None, Caption(RED)])
async def test_stream_equals_the_response(client, condition):
    """A stream has the same images in any chunks, and when it resumes."""
    whole = await client.generate("people", 40, seed=3, condition=condition)
    stream = client.stream("people", 25, seed=3, condition=condition, chunk_size=7)
    first = [chunk async for chunk in stream]
    rest = client.stream("people", 15, seed=3, first_index=25, condition=condition)
    chunks = [*first, *[chunk async for chunk in rest]]
    assert np.array_equal(np.concatenate([chunk.image for chunk in chunks]), whole.image)
    assert tuple(text for chunk in chunks for text in chunk.captions) == whole.captions


async def test_picture_has_its_caption(client):
    """The serial in a picture has the caption."""
    (picture,) = await client.encoded("people", 1, seed=2, condition=Caption(RED), format="png")
    serial = "people@1/2/0?caption=a%20person%20with%20red%20hair"
    assert picture.captions == (RED,)
    assert picture.pil().text["imagemint:serial"] == serial


async def test_unknown_words_are_named(client):
    """The error suggests a similar known word, and the field is that of the schema."""
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("people", 1, condition=Caption("red hairs and a moustache"))
    (violation,) = caught.value.violations
    assert violation.field == "images.caption"
    assert violation.description == ("unknown words 'hairs' (similar: 'hair'), 'and', 'moustache'")


async def test_too_many_words_are_refused(client):
    """Generate and StreamGenerate refuse the caption before any work."""
    condition = Caption("red " * (MAX_WORDS + 1))
    said = "9 words; a caption of this model has at most 8"
    with pytest.raises(InvalidRequest, match=said):
        await client.generate("people", 1, condition=condition)
    with pytest.raises(InvalidRequest, match=said):
        await anext(client.stream("people", 1, condition=condition))


async def test_condition_of_another_kind_fails(client):
    """A caption for a model with classes, and a class for a model with captions, are refused."""
    with pytest.raises(FailedPrecondition) as caption:
        await client.generate("digits", 1, condition=Caption(RED))
    with pytest.raises(FailedPrecondition) as class_:
        await client.generate("people", 1, condition=3)
    assert (caption.value.reason, class_.value.reason) == (
        "CAPTION_UNSUPPORTED",
        "CLASS_UNSUPPORTED",
    )
    assert class_.value.message == "model 'people' has no classes: it takes a caption instead"


async def test_explicit_latents_need_a_caption(client, engines):
    """Explicit latents have no seed from which a caption could be drawn."""
    z = draw_latents(4, 0, 2, 8)
    with pytest.raises(InvalidRequest, match="a caption is required with explicit latents"):
        await client.generate("people", 2, latents=z)
    batch = await client.generate("people", 2, latents=z, condition=Caption(RED))
    assert np.array_equal(batch.image, compute_images(engines, [RED] * 2, 4))


def make_request(*captions, name="text", typed=False, model="people", outputs=("image", "caption")):
    """Returns a request for the first images of seed 5 with captions as text or token ids."""
    request = oip.ModelInferRequest(model_name=model)
    count = len(captions)
    columns = {"seed": np.full(count, 5, np.uint64), "index": np.arange(count, dtype=np.uint64)}
    contents = []
    for each, values in columns.items():
        tensor = request.inputs.add(name=each, datatype="UINT64", shape=(count, 1))
        tensor.contents.uint64_contents.extend(values.tolist())
        contents.append(values.tobytes())
    if name == "tokens":
        tensor = request.inputs.add(name=name, datatype="INT64", shape=(count, MAX_WORDS))
        tokens = KNOWN.encode(captions)
        tensor.contents.int64_contents.extend(tokens.ravel().tolist())
        contents.append(tokens.tobytes())
    elif name == "text":
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=(count, 1))
        texts = [caption.encode() for caption in captions]
        tensor.contents.bytes_contents.extend(texts)
        contents.append(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    if not typed:
        for tensor in request.inputs:
            tensor.ClearField("contents")
        request.raw_input_contents.extend(contents)
    for output in outputs:
        request.outputs.add(name=output)
    return request


def decode_texts(raw):
    """Returns the elements of a BYTES output."""
    found = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("name", ["text", "tokens"])
async def test_tensors_may_be_captions(inference, engines, name, typed):
    """Captions are text or token ids, raw or typed, one per row."""
    captions = [RED, "blue hair", "round glasses"]
    answer = await inference.ModelInfer(make_request(*captions, name=name, typed=typed))
    image = np.frombuffer(answer.raw_output_contents[0], np.uint8).reshape(3, 4, 6, 1)
    assert np.array_equal(image, compute_images(engines, captions, 5))
    assert decode_texts(answer.raw_output_contents[1]) == captions


async def test_tensors_without_caption_draw_one(inference, client):
    """The result equals that of Generate, and the serial has the caption."""
    answer = await inference.ModelInfer(
        make_request("", "", name="", outputs=("serial", "caption"))
    )
    same = await client.generate("people", 2, seed=5)
    assert decode_texts(answer.raw_output_contents[0]) == list(same.serials)
    assert decode_texts(answer.raw_output_contents[1]) == list(same.captions)


async def test_captions_in_tensors_are_described(inference):
    """The input of the graph is `tokens`."""
    answer = await inference.ModelMetadata(oip.ModelMetadataRequest(name="people"))
    assert [(input_.name, input_.datatype, list(input_.shape)) for input_ in answer.inputs] == [
        ("z", "FP32", [-1, 8]),
        ("tokens", "INT64", [-1, MAX_WORDS]),
    ]


def _make_broken_length():
    request = make_request(RED)
    request.raw_input_contents[2] = struct.pack("<I", 99) + b"red hair"
    return request


def _make_two_texts_for_one_row():
    request = make_request(RED)
    request.raw_input_contents[2] *= 2
    return request


def _make_invalid_utf8():
    request = make_request(RED)
    request.raw_input_contents[2] = struct.pack("<I", 1) + b"\xff"
    return request


def _make_text_and_tokens():
    request = make_request(RED)
    tensor = request.inputs.add(name="tokens", datatype="INT64", shape=(1, MAX_WORDS))
    del tensor
    request.raw_input_contents.append(KNOWN.encode([RED]).tobytes())
    return request


def _make_padding_before_a_token():
    request = make_request(RED, name="tokens")
    tokens = np.zeros((1, MAX_WORDS), np.int64)
    tokens[0, 3] = 1
    request.raw_input_contents[2] = tokens.tobytes()
    return request


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_make_broken_length, "raw_input_contents[2]: element 0 is longer than the 12 bytes"),
        (_make_two_texts_for_one_row, "raw_input_contents[2]: 2 elements; text has 1"),
        (_make_invalid_utf8, "inputs.text: 'utf-8' codec can't decode"),
        (_make_text_and_tokens, "inputs: give either text or tokens"),
        (_make_padding_before_a_token, "inputs.tokens: a token id follows the padding"),
        (lambda: make_request("green hair"), "inputs.text: unknown word 'green'"),
    ],
)
async def test_invalid_tensors_are_refused(inference, make, said):
    """The error has the field and the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference.ModelInfer(make())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in caught.value.details()


async def test_caption_of_a_model_without_captions_fails(inference):
    """The error is the same as in imagemint.v1."""
    with pytest.raises(grpc.aio.AioRpcError, match="takes no caption") as caught:
        await inference.ModelInfer(make_request(RED, model="digits", outputs=()))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_model_description_has_captions(client):
    """The manifest has the vocabulary, the length and examples."""
    manifest = (await client.model("people")).manifest()
    assert manifest.captions.vocabulary == WORDS
    assert (manifest.captions.max_words, manifest.captions.examples) == (MAX_WORDS, EXAMPLES)


async def test_images_are_counted_without_class(app, client, scrape, total):
    """Text of callers is never the value of a label."""
    before = total(await scrape(app.metrics_address), "imagemint_images_total", model="people")
    await client.generate("people", 4, condition=Caption(RED))
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_images_total", model="people") == before + 4
    labels = {dict(have)["class"] for name, have in samples if name == "imagemint_images_total"}
    assert labels <= {*map(str, range(10)), ""}


async def test_command_accepts_a_caption(app, client, tmp_path, capsys):
    """`imagemint generate --caption` works, and `imagemint models` shows captions."""

    def run(name, *words):
        return cli.main([name, "--server", app.grpc_address, *words])

    out = str(tmp_path / "x.npz")
    words = ("--model", "people", "--caption", "Red hair", "--seed", "5", "--count", "2")
    assert await asyncio.to_thread(run, "generate", *words, "--out", out) == 0
    same = await client.generate("people", 2, seed=5, condition=Caption("red hair"))
    assert np.array_equal(np.load(out)["image"], same.image)
    assert await asyncio.to_thread(run, "generate", *words, "--class", "1", "--out", out) == 2
    assert "--class and --caption exclude each other" in capsys.readouterr().err
    assert await asyncio.to_thread(run, "models") == 0
    shown = capsys.readouterr().out
    assert "people takes captions of up to 8 words, such as\n  a person with red hair\n" in shown
    assert "Words: a, blue, glasses, grey-green, hair, no, person, red, round, with" in shown
