"""Tests of translations over HTTP: as a picture, a form, or JSON."""

import base64
import io

import numpy as np
import pytest
import pytest_asyncio
from http_clients import browse
from made_sources import draw, to_file
from PIL import Image

from imagemint.engine.batch import Batch
from imagemint.engine.serial import Serial, hash_source
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")
SOURCE = draw(1)
FILE = to_file(SOURCE)
LARGE = to_file(np.zeros((200, 150, 3), np.uint8))  # two exceed max_source_pixels
PNG = {"content-type": "image/png"}
ANYWHERE = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site(translating_app):
    """A client of the HTTP interface."""
    async with browse(translating_app) as client:
        yield client


def pixels_of(answer):
    """Returns the pixels of an answer that is a picture."""
    with Image.open(io.BytesIO(answer.content)) as picture:
        return np.asarray(picture)


async def test_picture_in_picture_out(site, backends):
    """The body is the picture, and so is the answer, with its serial in a header."""
    answer = await site.post("/v1/models/fixed:translate", content=FILE, headers=PNG)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["imagemint-serial"] == f"fixed@1/0/0?source={hash_source(SOURCE)}"
    expected = backends["fixed"].run(Batch(source=SOURCE[np.newaxis]))[0]
    assert np.array_equal(pixels_of(answer), expected)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_accept_chooses_the_encoding(site, kind):
    """Accept names the encoding of the result, quality is an option."""
    headers = PNG | {"accept": f"image/{kind}"}
    path = "/v1/models/free:translate?fit=crop&quality=40"
    answer = await site.post(path, content=to_file(draw(1, 40, 41)), headers=headers)
    assert answer.headers["content-type"] == f"image/{kind}"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == (kind.upper(), (40, 40))


async def test_options_of_the_query(site):
    """Seed, index and class determine the serial."""
    path = "/v1/models/drawn:translate?seed=5&index=3&class=7&priority=high"
    answer = await site.post(path, content=FILE, headers=PNG)
    serial = Serial.parse(answer.headers["imagemint-serial"])
    assert (serial.seed, serial.index, serial.class_id) == (5, 3, 7)


async def test_class_of_the_query_may_be_a_label(site):
    """A text that is no number is a label, and the error of an unknown one names the option."""
    answer = await site.post("/v1/models/drawn:translate?class=seven", content=FILE, headers=PNG)
    assert answer.status_code == 400
    (violation,) = answer.json()["violations"]
    assert violation["field"] == "class"
    assert "'seven'" in violation["description"]


async def test_form_with_several_sources(site, backends):
    """Each part `source` is a source; the answer is JSON."""
    sources = [draw(number) for number in range(3)]
    parts = [("source", (f"{at}.png", to_file(source))) for at, source in enumerate(sources)]
    answer = await site.post("/v1/models/fixed:translate", files=parts)
    batch = answer.json()["batch"]
    expected = backends["fixed"].run(Batch(source=np.stack(sources)))
    raw = b"".join(base64.b64decode(each["picture"]) for each in batch["translations"])
    assert raw == expected.tobytes()


async def test_format_of_the_results(site):
    """The option `format` encodes the results in JSON, and chooses the picture without Accept."""
    parts = [("source", ("a.png", FILE)), ("format", (None, "webp"))]
    answer = await site.post("/v1/models/fixed:translate", files=[*parts, parts[0]])
    for each in answer.json()["batch"]["translations"]:
        assert Image.open(io.BytesIO(base64.b64decode(each["picture"]))).format == "WEBP"
    answer = await site.post("/v1/models/fixed:translate", files=parts)
    assert answer.headers["content-type"] == "image/webp"
    path = "/v1/models/fixed:translate?format=raw"
    answer = await site.post(path, content=FILE, headers=PNG)
    assert answer.json()["batch"]["format"] == "IMAGE_FORMAT_RAW"


async def test_form_with_an_unknown_file(site):
    """The error lists the names of the files as well."""
    answer = await site.post("/v1/models/fixed:translate", files=[("image", ("a.png", FILE))])
    assert answer.json()["detail"].startswith(
        "image: not a parameter; there are source, frame, mask"
    )


async def test_form_of_another_origin_is_refused(site):
    """A browser sends a form for any page, so the server looks at where the page is from."""
    path, files = "/v1/models/fixed:translate", [("source", ("a.png", FILE))]
    own = {"sec-fetch-site": "same-origin", "origin": "http://behind-a-proxy.example"}
    assert (await site.post(path, files=files, headers=own)).status_code == 200
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://art.example"}
    refused = await site.post(path, files=files, headers=foreign)
    assert refused.status_code == 403
    problem = refused.json()
    assert (problem["code"], problem["reason"]) == ("PERMISSION_DENIED", "ORIGIN_NOT_ALLOWED")
    assert problem["detail"].startswith("pages of this origin may not send forms")
    # Before a browser sends this header for another origin, it asks, and gets no permission.
    asked = {**foreign, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "x-requested-with"
    answer = await site.options(path, headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-headers" not in answer.headers


async def test_form_of_an_allowed_origin(translators):
    """A page in http_allow_origins may send a form."""
    listen = {"http_address": "127.0.0.1:0", "http_allow_origins": ["https://art.example"]}
    app = App(ServeSettings(repository=translators, **ANYWHERE, **listen))
    await app.start()
    try:
        async with browse(app) as site:
            headers = {"sec-fetch-site": "cross-site", "origin": "https://art.example"}
            files = [("source", ("a.png", FILE))]
            answer = await site.post("/v1/models/fixed:translate", files=files, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    finally:
        await app.stop()


async def test_form_with_frames_and_mask(site, backends):
    """Parts `frame` are the frames of one source, and options are parts, too."""
    source = draw(1, depth=10)
    source[..., -1] = np.where(source[..., -1] < 128, 0, 255)
    parts = [("frame", ("f.png", to_file(source[..., at : at + 3]))) for at in (0, 3, 6)]
    parts += [("mask", ("m.png", to_file(source[..., 9:]))), ("version", (None, "1"))]
    answer = await site.post("/v1/models/sequence:translate", files=parts)
    expected = backends["sequence"].run(Batch(source=source[np.newaxis]))[0]
    assert np.array_equal(pixels_of(answer), expected)


async def test_json_in_json_out(site, backends):
    """Requests and answers have the JSON mapping of the messages."""
    source = {"encoded": {"pictures": [base64.b64encode(FILE).decode()]}}
    answer = await site.post("/v1/models/fixed:translate", json={"sources": [source]})
    (each,) = answer.json()["batch"]["translations"]
    expected = backends["fixed"].run(Batch(source=SOURCE[np.newaxis]))
    assert base64.b64decode(each["picture"]) == expected.tobytes()
    assert each["shape"] == {"height": 6, "width": 8, "channels": 3}
    wanted = {"accept": "application/json"}
    answer = await site.post("/v1/models/fixed:translate", content=FILE, headers=PNG | wanted)
    assert answer.json()["batch"]["translations"][0]["picture"] == each["picture"]


@pytest.mark.parametrize(
    ("query", "request_options", "status", "field"),
    [
        ("", {"content": b"x", "headers": PNG}, 400, "sources[0].encoded.pictures[0]"),
        ("?colour=1", {"content": FILE, "headers": PNG}, 400, "colour"),
        ("?seed=1&seed=2", {"content": FILE, "headers": PNG}, 400, "seed"),
        ("?priority=urgent", {"content": FILE, "headers": PNG}, 400, "priority"),
        ("?format=gif", {"content": FILE, "headers": PNG}, 400, "format"),
        ("?quality=101&format=webp", {"content": FILE, "headers": PNG}, 400, "quality"),
        ("?class_id=1", {"content": FILE, "headers": PNG}, 400, "class_id"),
        ("?fit=fill", {"content": FILE, "headers": PNG}, 400, "fit"),
        (
            "?format=webp",
            {"content": FILE, "headers": PNG | {"accept": "image/png"}},
            400,
            "format",
        ),
        ("", {"content": FILE, "headers": {"content-type": "text/plain"}}, 415, None),
        ("", {"content": FILE}, 415, "content-type"),
        ("", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "body"),
        ("", {"files": [("mask", ("m", FILE))]}, 400, "mask"),
        ("", {"files": [("source", ("a", FILE)), *[("mask", ("m", FILE))] * 2]}, 400, "mask"),
        ("", {"files": [*[("source", ("a", FILE))] * 2, ("mask", ("m", FILE))]}, 400, "mask"),
        (
            "",
            {"files": [("source", ("a", FILE))] * 2, "headers": {"accept": "image/png"}},
            400,
            "sources",
        ),
        ("", {"files": [("source", ("a", LARGE))] * 2}, 400, "sources"),
        ("", {"json": {"images": {"model": "free"}}}, 400, "images.model"),
    ],
)
async def test_refusals(site, query, request_options, status, field):
    """A problem names the fault."""
    answer = await site.post(f"/v1/models/fixed:translate{query}", **request_options)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["code"] == "INVALID_ARGUMENT"
    if field is not None:
        assert [each["field"] for each in problem["violations"]] == [field]


async def test_model_without_source(site):
    """A model without a source gives the status of a precondition, with its reason."""
    answer = await site.post("/v1/models/digits:translate", content=FILE, headers=PNG)
    assert (answer.status_code, answer.json()["reason"]) == (400, "SOURCE_UNSUPPORTED")


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\ncontent-disposition: form-data; name="source"\r\n\r\nx',
        b"--c\r\n\r\n",
        b"--b\r\nx: " + b"y" * 5_000 + b"\r\n\r\n--b--\r\n",
        b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n' * 1_300 + b"--b--\r\n",
    ],
)
async def test_bad_forms(site, body):
    """A damaged form, or one that is too large, is refused."""
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await site.post("/v1/models/fixed:translate", content=body, headers=headers)
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["violations"]] == ["body"]
