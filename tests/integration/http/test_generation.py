"""Tests of images over HTTP: pixels as in gRPC, as JSON, lines, pictures and URLs."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from http_clients import browse, open_socket
from PIL import Image
from tiny_bundles import write_bundle

from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_latents
from imagemint.server.http.json_messages import encode_json

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
SPEC = {"seed": "42", "firstIndex": "17", "count": "3", "classId": 7}


@pytest.fixture(scope="module")
def expected(engines):
    """The pixels of SPEC, computed by the engine."""
    return engines["digits"].run(Batch(draw_latents(42, 17, 3, 8), np.full((3,), 7)))


def decode(picture):
    """Returns the pixels [H, W] of an encoded gray picture."""
    return np.asarray(Image.open(io.BytesIO(picture)))


async def test_json_has_the_pixels_of_the_engine(web, expected):
    """Pictures are raw bytes in base64, and serials and indices are text."""
    answer = await web.post("/v1/models/digits:generate", json={"images": SPEC})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    batch = answer.json()["batch"]
    pixels = [np.frombuffer(base64.b64decode(each), np.uint8) for each in batch["pictures"]]
    assert np.array_equal(np.stack(pixels), expected.reshape(3, -1))
    assert [each["serial"] for each in batch["images"]] == [
        f"digits@1/42/{index}?class=7" for index in (17, 18, 19)
    ]
    assert batch["images"][0] == {
        "index": "17",
        "classId": 7,
        "serial": "digits@1/42/17?class=7",
    }
    assert answer.json()["timing"]["inference"].endswith("s")


@pytest.mark.parametrize(("count", "is_elsewhere"), [(3, False), (64, True)])
async def test_large_json_is_encoded_on_another_thread(web, monkeypatch, count, is_elsewhere):
    """The event loop runs other calls while many images become JSON."""
    threads = []

    def encode(message):
        threads.append(threading.current_thread())
        return encode_json(message)

    monkeypatch.setattr("imagemint.server.http.generation.encode_json", encode)
    spec = SPEC | {"count": str(count)}
    answer = await web.post("/v1/models/digits:generate", json={"images": spec})
    assert len(answer.json()["batch"]["images"]) == count
    assert [thread is not threading.current_thread() for thread in threads] == [is_elsewhere]


async def test_snake_case_and_default_values_are_supported(web):
    """Names of the schema are accepted, and index 0 is written."""
    images = {"seed": 1, "count": 1, "class_id": 0}
    answer = await web.post("/v1/models/digits:generate", json={"images": images})
    assert answer.json()["batch"]["images"] == [
        {"index": "0", "classId": 0, "serial": "digits@1/1/0?class=0"}
    ]


@pytest.mark.parametrize("media_type", ["image/png", "image/webp"])
async def test_accept_header_selects_a_picture(web, expected, media_type):
    """One image is a picture with its serial in a header, and several images are a sheet."""
    one = {"images": SPEC | {"count": 1}, "output": {"quality": 100}}
    if media_type == "image/png":
        del one["output"]
    headers = {"accept": f"{media_type}, */*;q=0.1"}
    answer = await web.post("/v1/models/digits:generate", json=one, headers=headers)
    assert answer.headers["content-type"] == media_type
    assert answer.headers["imagemint-serial"] == "digits@1/42/17?class=7"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"))
    assert np.array_equal(pixels, expected[0, ..., 0])
    sheet = {"images": SPEC, "columns": 3}
    answer = await web.post("/v1/models/digits:generate", json=sheet, headers=headers)
    assert Image.open(io.BytesIO(answer.content)).size == (3 * 6, 4)
    assert "imagemint-serial" not in answer.headers
    apart = sheet | {"layout": "IMAGE_LAYOUT_INDIVIDUAL"}
    answer = await web.post("/v1/models/digits:generate", json=apart, headers=headers)
    assert {each["field"] for each in answer.json()["violations"]} == {"layout"}
    jpeg = one | {"output": {"format": "IMAGE_FORMAT_JPEG"}}
    answer = await web.post("/v1/models/digits:generate", json=jpeg, headers=headers)
    assert {each["field"] for each in answer.json()["violations"]} == {"output.format"}


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("image/png;q=0, application/json", "application/json"),
        ("image/png;q=0.2, image/webp", "image/webp"),
        ("image/*", "image/png"),
        ("text/html", "application/json"),
    ],
)
async def test_weights_of_accept_count(web, accept, chosen):
    """The type of the highest weight is the answer, and weight 0 excludes a type."""
    body = {"images": SPEC | {"count": 1}}
    answer = await web.post("/v1/models/digits:generate", json=body, headers={"accept": accept})
    assert answer.headers["content-type"] == chosen


async def test_lines_of_accept_are_one_list(web):
    """Several lines of the header mean the same as one."""
    headers = [("accept", "application/json;q=0.1"), ("accept", "image/webp")]
    body = {"images": SPEC | {"count": 1}}
    answer = await web.post("/v1/models/digits:generate", json=body, headers=headers)
    assert answer.headers["content-type"] == "image/webp"


async def test_accept_that_excludes_everything_is_refused(web):
    """The status is 406, and the problem names the types that there are."""
    body, headers = {"images": SPEC}, {"accept": "*/*;q=0"}
    answer = await web.post("/v1/models/digits:generate", json=body, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (406, 406)
    assert "application/json, image/png" in answer.json()["violations"][0]["description"]


async def test_stream_sends_lines(web, expected):
    """Each line has the next images in order."""
    request = {"images": SPEC | {"count": "50"}, "chunkSize": 7}
    body = json.dumps(request)
    url = "/v1/models/digits:streamGenerate"
    async with web.stream("POST", url, content=body, headers=JSON) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"  # nginx would collect the lines
        lines = [json.loads(line)["batch"] async for line in answer.aiter_lines()]
    assert [len(line["images"]) for line in lines] == [7] * 7 + [1]
    indices = [int(image["index"]) for line in lines for image in line["images"]]
    assert indices == list(range(17, 67))
    first = np.frombuffer(base64.b64decode(lines[0]["pictures"][0]), np.uint8)
    assert np.array_equal(first, expected[0].ravel())


async def test_url_of_a_serial_gives_its_image(web, expected):
    """The pixels are the same, and an ETag saves the second transfer."""
    url = "/v1/models/digits/versions/1/images/42/17.png?class=7"
    answer = await web.get(url)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["imagemint-serial"] == "digits@1/42/17?class=7"
    assert np.array_equal(decode(answer.content), expected[0, ..., 0])
    tag = answer.headers["etag"]
    again = await web.get(url, headers={"if-none-match": f'"other", W/{tag}'})
    assert again.status_code == 304
    assert "content-length" not in again.headers  # it would be that of the picture
    assert not again.content
    assert again.headers["etag"] == tag
    other = await web.get(url.replace("class=7", "class=8"), headers={"if-none-match": tag})
    assert other.status_code == 200
    assert other.headers["etag"] != tag
    head = await web.head(url)
    assert head.headers["content-length"] == str(len(answer.content))
    refused = await web.get(url.replace("class=7", "class=10"), headers={"if-none-match": "*"})
    assert refused.status_code == 400


async def test_tag_depends_on_the_bundle(serve_http, tmp_path):
    """A copy from a server with other bytes under the same version is not taken for valid."""
    tags = []
    for weights_seed in (0, 1):
        repository = tmp_path / str(weights_seed)
        write_bundle(repository, "digits", weights_seed=weights_seed)
        async with browse(await serve_http(repository)) as web:
            answer = await web.get("/v1/models/digits/versions/1/images/42/17.png?class=7")
            tags.append(answer.headers["etag"])
    assert tags[0] != tags[1]


async def test_url_may_have_truncation_and_quality(web, engines):
    """The truncation is part of the serial. WebP with quality 100 is lossless."""
    url = "/v1/models/bounded/versions/1/images/3/0.webp?class=1&truncation=0.5&quality=100"
    answer = await web.get(url)
    assert answer.headers["imagemint-serial"] == "bounded@1/3/0?class=1&truncation=0.5"
    assert Image.open(io.BytesIO(answer.content)).size == (6, 4)


async def test_url_may_have_a_caption(web):
    """The caption is percent-encoded as in the serial, and unknown words are refused."""
    url = "/v1/models/people/versions/1/images/3/0.png"
    answer = await web.get(f"{url}?caption=red%20hair")
    assert answer.headers["imagemint-serial"] == "people@1/3/0?caption=red%20hair"
    made = await web.post(
        "/v1/models/people:generate",
        json={"images": {"seed": "3", "count": 1, "caption": "Red hair!"}},
        headers={"accept": "image/png"},
    )
    assert np.array_equal(decode(made.content), decode(answer.content))
    assert (await web.get(f"{url}?caption=purple%20hair")).status_code == 400


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("images/x/17.png", ["seed"]),
        ("images/-1/1_7.png", ["seed", "index"]),
        ("images/042/00.png?class=07", ["seed", "index", "class"]),
        ("images/18446744073709551616/0.png", ["seed"]),
        ("images/1/0.png?class=a&truncation=b&colour=red", ["class", "truncation", "colour"]),
        ("images/1/0.png?class=1&class=2", ["class"]),
        ("images/1/0.png?truncation=nan", ["truncation"]),
        ("images/1/0.png?truncation=%200.5", ["truncation"]),
        ("images/1/0.png?class=10", ["class"]),
    ],
)
async def test_invalid_url_is_refused(web, path, fields):
    """The problem lists every invalid part."""
    answer = await web.get(f"/v1/models/digits/versions/1/{path}")
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert [each["field"] for each in answer.json()["violations"]] == fields


async def test_label_in_a_url_is_refused(web):
    """The problem says that a class has a number there."""
    answer = await web.get("/v1/models/digits/versions/1/images/1/0.png?class=hijab")
    (violation,) = answer.json()["violations"]
    assert violation["description"] == (
        "'hijab' is not the number of a class, 0 to K - 1 for K classes; the URL of an image takes"
        " no label"
    )


async def test_url_of_another_variant_is_refused(web):
    """A URL without a variant means the reference."""
    url = "/v1/models/digits/versions/1/images/1/0.png"
    reference = await web.get(f"{url}?variant=reference")
    assert reference.status_code == 200
    assert (await web.get(f"{url}?variant=")).headers["etag"] == reference.headers["etag"]
    answer = await web.get(f"{url}?variant=int8")
    assert answer.status_code == 400
    assert answer.json()["reason"] == "VARIANT_MISMATCH"


@pytest.mark.parametrize(
    ("model", "body", "status", "reason"),
    [
        ("nobody", {"images": {"count": 1}}, 404, "MODEL_NOT_FOUND"),
        ("digits", {"images": {"count": 1, "version": "9"}}, 404, "VERSION_NOT_FOUND"),
        ("digits", {"images": {"count": 0}}, 400, "INVALID_REQUEST"),
        ("digits", {"images": {"count": 1, "model": "plain"}}, 400, "INVALID_REQUEST"),
        ("digits", {"images": {"count": 1}, "colour": 1}, 400, "INVALID_REQUEST"),
        ("plain", {"images": {"count": 1, "classId": 1}}, 400, "CLASS_UNSUPPORTED"),
        ("digits", [], 400, "INVALID_REQUEST"),
        ("digits", {"images": {"count": {"a": [1, 2]}}}, 400, "INVALID_REQUEST"),
        ("digits", {"images": {"latents": {"values": [0.0] * 300_000}}}, 400, "INVALID_REQUEST"),
    ],
)
async def test_errors_are_problems(web, model, body, status, reason):
    """Each error has its status and the reason of gRPC."""
    for verb in ("generate", "streamGenerate"):
        answer = await web.post(f"/v1/models/{model}:{verb}", json=body)
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, problem["reason"]) == (status, reason)
        assert problem["status"] == status
        assert problem["request_id"] == answer.headers["x-request-id"]


async def test_invalid_json_is_refused(web):
    """Any invalid body is refused without a failure of the server."""
    for body in (b"\xff", b"{", b"[" * 100_000, b'{"images": NaN}', b"1" * 10_000):
        answer = await web.post("/v1/models/digits:generate", content=body, headers=JSON)
        (violation,) = answer.json()["violations"]
        assert violation["field"] != "content-type", body[:9]


@pytest.mark.parametrize("verb", ["generate", "streamGenerate", "interpolate"])
async def test_other_types_of_bodies_are_refused(web, verb):
    """A browser asks before it sends JSON to another origin. It sends text and forms at once."""
    url, body = (
        f"/v1/models/digits:{verb}",
        json.dumps({"images": SPEC} if verb[0] != "i" else WALK),
    )
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/plain; a=application/json",
    ):
        answer = await web.post(url, content=body, headers={"content-type": kind})
        assert answer.status_code == 415
        (violation,) = answer.json()["violations"]
        assert violation["field"] == "content-type"
        assert violation["description"].endswith("is none of application/json")
    assert (await web.post(url, content=body)).status_code == 415
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        answer = await web.post(url, content=body, headers={"content-type": kind})
        assert answer.status_code == 200
    assert (await web.post(url)).json()["violations"][0]["field"] != "content-type"


async def test_fields_have_the_names_of_json(web):
    """A fault that the service finds is spelt as one in the body."""
    body = {"images": {"count": 1, "classId": 10}}
    answer = await web.post("/v1/models/digits:generate", json=body)
    assert [each["field"] for each in answer.json()["violations"]] == ["images.classId"]
    assert answer.json()["detail"].startswith("images.classId: ")


async def test_json_with_a_name_twice_is_refused(web):
    """Two values of one field contradict each other, so neither is taken."""
    body = b'{"images": {"count": "1", "seed": "1", "seed": "2"}}'
    answer = await web.post("/v1/models/digits:generate", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "'seed' is there more than once" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("pageSize=x", "pageSize"),
        ("pageSize=1&page_size=2", "pageSize"),
        ("pagesize=1", "pagesize"),
    ],
)
async def test_invalid_query_of_the_models_is_refused(web, query, field):
    """The parameter is named, and not the body, which a GET does not have."""
    answer = await web.get(f"/v1/models?{query}")
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["violations"]] == [field]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://elsewhere:80/v1/models/digits?view=full", 200),
        ("HTTP://elsewhere/healthz", 200),
        ("http://elsewhere", 200),
        ("http://elsewhere/nothing", 404),
        ("ftp://elsewhere/healthz", 404),
    ],
)
async def test_whole_url_is_a_target(site, target, status):
    """A target that is a URL, as proxies send it, means its path (RFC 9112, section 3.2.2)."""
    async with open_socket(site) as (reader, writer):
        head = f"GET {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        assert int((await reader.read()).split()[1]) == status


async def test_unknown_path_and_method_are_explained(web):
    """The problem says where the paths are described, and which method is possible."""
    answer = await web.post("/v1/models/digits:Generate", json={})
    assert answer.status_code == 404
    assert answer.json()["detail"] == (
        "there is no '/v1/models/digits:Generate'; /openapi.json describes all paths"
    )
    answer = await web.get("/v1/models/digits:generate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["detail"] == "GET is not allowed here; use POST"
    assert (await web.post("/v1/models")).headers["allow"] == "GET, HEAD"
    assert (await web.get("/v1/models/")).status_code == 404  # and no redirect without TLS


@pytest.mark.parametrize("given", ["5s", "1e9", "nan"])
async def test_invalid_timeout_is_refused(web, given):
    """The problem has the value and its range."""
    headers = {"x-request-timeout": given}
    answer = await web.get("/v1/models", headers=headers)
    assert answer.status_code == 400
    (violation,) = answer.json()["violations"]
    assert violation["description"] == (f"'{given}' is not a number of seconds up to 1000000")


@pytest.mark.parametrize(
    "headers",
    [{"x-request-timeout": "0"}, {"x-request-timeout": "-0.02"}, {"grpc-timeout": "0m"}],
)
async def test_passed_deadline_is_no_invalid_request(web, site, headers, scrape, total):
    """Services send what is left of their own deadline. No call runs when nothing is left."""
    images = {"images": {"count": 2}}
    before = await scrape(site.metrics_address)
    for answer in (
        await web.get("/v1/models", headers=headers),
        await web.post("/v1/models/digits:generate", json=images, headers=headers),
    ):
        assert answer.status_code == 504
        assert answer.json()["code"] == "DEADLINE_EXCEEDED"
        assert answer.json()["reason"] == "DEADLINE_PASSED"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    after = await scrape(site.metrics_address)
    late = {"code": "DEADLINE_EXCEEDED"}
    requests = "imagemint_requests_total"
    assert total(after, requests, **late) - total(before, requests, **late) == 2


async def test_calls_are_counted_as_in_grpc(web, site, scrape, total):
    """The metrics have service, method, model and code. /metrics is also served over HTTP."""
    count = {"service": "imagemint.v1.GenerationService", "method": "Generate"}
    before = await scrape(site.metrics_address)
    await web.post("/v1/models/digits:generate", json={"images": {"count": 2}})
    await web.post("/v1/models/digits:generate", json={"images": {"count": 0}})
    after = await scrape(site.metrics_address)
    for code in ("OK", "INVALID_ARGUMENT"):
        name = "imagemint_requests_total"
        had, has = (
            total(each, name, code=code, model="digits", **count) for each in (before, after)
        )
        assert has == had + 1
    assert not total(after, "imagemint_bytes_in_flight")
    answer = await web.get("/metrics")
    assert "imagemint_requests_total" in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


WALK = {"serials": ["digits@1/1/0?class=3", "digits@1/2/0?class=3"], "frames": 12}


async def test_interpolation_is_lines_or_an_animation(web):
    """Lines have the frames of the RPC. An Accept header gives one animated picture."""
    url = "/v1/models/digits:interpolate"
    png = {"output": {"format": "IMAGE_FORMAT_PNG"}}
    async with web.stream("POST", url, json=WALK | png) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        chunks = [json.loads(line)["batch"] async for line in answer.aiter_lines()]
    pictures = [base64.b64decode(each) for chunk in chunks for each in chunk["pictures"]]
    assert len(pictures) == 12
    first = await web.get("/v1/models/digits/versions/1/images/1/0.png?class=3")
    assert np.array_equal(decode(pictures[0]), decode(first.content))
    for media_type in ("image/webp", "image/gif", "image/apng"):
        answer = await web.post(url, json=WALK, headers={"accept": media_type})
        assert answer.headers["content-type"] == media_type
        assert Image.open(io.BytesIO(answer.content)).n_frames == 12


async def test_invalid_interpolation_is_refused(web):
    """Serials of another model, or no serials, are refused."""
    for model, body in (("plain", WALK), ("digit", WALK), ("digits", WALK | {"serials": []})):
        answer = await web.post(f"/v1/models/{model}:interpolate", json=body)
        assert answer.status_code == 400
        assert answer.json()["violations"][0]["field"].startswith("serials")
