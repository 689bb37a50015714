"""Filters over HTTP: the same images and scores as over gRPC."""

import base64

import pytest
from http_clients import EVERYWHERE, browse
from tiny_bundles import write_bundle, write_critic

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_filter_is_part_of_the_body(serve_http, tmp_path):
    """Scores come with each image, and the URL of its serial number has the same pixels."""
    write_critic(write_bundle(tmp_path, "digits"))
    app = await serve_http(tmp_path, **EVERYWHERE)
    images = {
        "seed": "3",
        "count": "6",
        "classCycle": {},
        "filter": {"minClassConfidence": 0.45, "maxTries": 1000},
    }
    output = {"format": "IMAGE_FORMAT_PNG"}
    async with browse(app) as web:
        answer = await web.post(
            "/v1/models/digits:generate", json={"images": images, "output": output}
        )
        assert answer.status_code == 200, answer.text
        minted = answer.json()["batch"]["images"]
        assert [each["index"] for each in minted] == [str(index) for index in range(6)]
        assert min(each["scores"]["classConfidence"] for each in minted) >= 0.45
        for picture, each in zip(answer.json()["batch"]["pictures"], minted, strict=True):
            path, _, query = each["serial"].partition("?")
            place, seed, index = path.split("/")
            model, _, version = place.partition("@")
            url = f"/v1/models/{model}/versions/{version}/images/{seed}/{index}.png?{query}"
            again = await web.get(url)
            assert again.content == base64.b64decode(picture)
        refused = await web.post(
            "/v1/models/digits:generate",
            json={"images": images | {"filter": {"minClassConfidence": 1, "maxTries": 2}}},
        )
        assert refused.status_code == 400
        assert refused.json()["reason"] == "FILTER_EXHAUSTED"
