"""Tests of the other HTTP resources, of headers and of other origins."""

import pytest
from http_clients import browse
from tiny_bundles import write_bundle, write_sums

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_models_are_listed(web):
    """Pages of models and single models have the content of the RPCs."""
    page = (await web.get("/v1/models", params={"pageSize": 3})).json()
    assert [each["name"] for each in page["models"]] == ["bounded", "digits", "people"]
    rest = (await web.get("/v1/models", params={"pageToken": page["nextPageToken"]})).json()
    assert [each["name"] for each in rest["models"]] == ["plain", "styled"]
    model = (await web.get("/v1/models/digits")).json()
    assert model == page["models"][1]
    (version,) = model["versions"]
    assert version["state"] == "MODEL_STATE_READY"
    assert version["manifest"]["classLabels"] == list("0123456789")
    assert (await web.get("/v1/models/nobody")).json()["reason"] == "MODEL_NOT_FOUND"
    assert (await web.get("/v1/models", params={"pageSize": "x"})).status_code == 400


async def test_only_the_card_of_a_bundle_is_served(serve_http, tmp_path):
    """No other file of the directory is served."""
    directory = write_bundle(tmp_path, "digits")
    (directory / "card.md").write_text("# Digits\n")
    write_sums(directory)
    app = await serve_http(tmp_path)
    async with browse(app) as web:
        card = await web.get("/v1/models/digits/versions/1/card.md")
        assert card.text == "# Digits\n"
        assert card.headers["content-type"].startswith("text/markdown")
        copy = {"if-none-match": card.headers["etag"]}
        again = await web.get("/v1/models/digits/versions/1/card.md", headers=copy)
        assert (again.status_code, again.content) == (304, b"")
        for name in ("samples.png", "model.onnx", "..%2f..%2fcard.md"):
            answer = await web.get(f"/v1/models/digits/versions/1/{name}")
            assert answer.status_code == 404
            assert answer.json()["code"] == "NOT_FOUND"
            assert answer.json()["reason"] == "NO_SUCH_PATH"


async def test_only_checked_bytes_are_served(serve_http, tmp_path):
    """Neither a file that SHA256SUMS does not list nor a file that changes later is served."""
    (tmp_path / "secret").write_text("secret")
    models = tmp_path / "models"
    directory = write_bundle(models, "digits")
    card = (directory / "card.md").read_text()
    bare = write_bundle(models, "plain", conditional=False)
    (bare / "card.md").unlink()
    write_sums(bare)
    (bare / "card.md").write_text("# Not listed\n")
    for each in (directory, bare):
        (each / "samples.png").symlink_to(tmp_path / "secret")
    app = await serve_http(models)
    (directory / "card.md").unlink()
    (directory / "card.md").symlink_to(tmp_path / "secret")
    async with browse(app) as web:
        answer = await web.get("/v1/models/digits/versions/1/card.md")
        assert (answer.status_code, answer.text) == (200, card)
        for path in ("digits/versions/1/samples.png", *_list_files("plain")):
            answer = await web.get(f"/v1/models/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), path


def _list_files(model):
    return [f"{model}/versions/1/{name}" for name in ("card.md", "samples.png")]


async def test_corrected_card_is_served(serve_http, tmp_path):
    """The version with the same model stays loaded, and its card and samples are the new ones."""
    directory = write_bundle(tmp_path, "digits")
    app = await serve_http(tmp_path, model_control="poll", poll_interval_s=3_600)
    served = app.repository.resolve("digits")
    (directory / "card.md").write_text("# Corrected\n")
    (directory / "samples.png").write_bytes(b"\x89PNG")
    write_sums(directory)
    await app.control.refresh()
    async with browse(app) as web:
        card, samples = [await web.get(f"/v1/models/{path}") for path in _list_files("digits")]
        assert (card.text, samples.content) == ("# Corrected\n", b"\x89PNG")
        assert card.headers["etag"] != samples.headers["etag"]
    assert app.repository.resolve("digits").backend is served.backend


async def test_probes_are_text_and_errors_are_problems(web):
    """Health and readiness are plain text, and unknown paths are problems."""
    for path, text in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        answer = await web.get(path)
        assert answer.text == text
        assert answer.headers["cache-control"] == "no-store"
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2/health/ready", 404),  # docs/open-inference.md: no REST
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/digits:generate", 405),
        ("POST", "/readyz", 405),
    ):
        answer = await web.request(method, path)
        assert answer.status_code == status, path
        problem = answer.json()
        assert problem["status"] == status
        assert problem["reason"] == {404: "NO_SUCH_PATH", 405: "METHOD_NOT_ALLOWED"}[status]
        assert "request_id" not in problem
        answer = await web.request(method, path, headers={"x-request-id": "mine-1"})
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"


async def test_headers_protect_browsers(web):
    """The headers forbid inline and foreign content, guessed types and frames."""
    for path in ("/", "/healthz", "/v1/models", "/v1/nothing"):
        headers = (await web.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


async def test_files_of_the_page_are_checked_again(web):
    """After an upgrade no browser runs modules of the release before."""
    for path in ("/", "/static/app.js", "/static/style.css"):
        answer = await web.get(path)
        assert answer.headers["cache-control"] == "no-cache"
        copy = {"if-none-match": answer.headers["etag"]}
        again = await web.get(path, headers=copy)
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")


async def test_only_configured_origins_are_allowed(serve_http, models):
    """Origins in http_allow_origins may read responses."""
    app = await serve_http(models, http_allow_origins=["https://art.example"])
    async with browse(app) as web:
        for origin, allowed in (("https://art.example", True), ("https://evil.example", False)):
            answer = await web.get("/v1/models", headers={"origin": origin})
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
            assert set(answer.headers["access-control-expose-headers"].split(", ")) == {
                *("etag", "imagemint-serial", "retry-after", "server-timing", "x-request-id")
            }


@pytest.mark.parametrize("allowed", ["https://art.example", "*"])
async def test_cached_answers_depend_on_the_origin(serve_http, models, allowed):
    """A cache must not give the answer for an `<img>`, which permits nothing, to a script."""
    app = await serve_http(models, http_allow_origins=[allowed])
    image = "/v1/models/digits/versions/1/images/1/0.png?class=1"
    async with browse(app) as web:
        for headers in ({}, {"origin": "https://art.example"}, {"origin": "https://evil.example"}):
            answer = await web.get(image, headers=headers)
            assert answer.headers["cache-control"].startswith("public")
            assert answer.headers["vary"] == "Origin"
            copy = headers | {"if-none-match": answer.headers["etag"]}
            again = await web.get(image, headers=copy)
            assert (again.status_code, again.headers["vary"]) == (304, "Origin")


async def test_browser_asks_before_it_calls(serve_http, models):
    """Pages of allowed origins may send JSON, keys and ids; pages of others may not."""
    app = await serve_http(models, http_allow_origins=["https://art.example"])
    names = "authorization, content-type, x-request-id"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": names}
    url = "/v1/models/digits:generate"
    async with browse(app) as web:
        answer = await web.options(url, headers={"origin": "https://art.example", **asked})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://art.example"
        assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
        assert answer.headers["access-control-allow-headers"] == names
        answer = await web.options(url, headers={"origin": "https://evil.example", **asked})
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers


async def test_request_id_is_repeated(web):
    """The caller's id is returned. Without one, only an error has an id."""
    answer = await web.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert "x-request-id" not in (await web.get("/v1/models")).headers


async def test_start_logs_the_address(serve_http, models, caplog):
    """The line `ready` has the address of the page if HTTP is enabled."""
    caplog.set_level("INFO")
    with_http = await serve_http(models)
    await serve_http(models, http_address=None)
    first, second = (record for record in caplog.records if record.getMessage() == "ready")
    assert first.http_url == with_http.http_url
    assert first.http_url.startswith("http://127.0.0.1:")
    assert not hasattr(second, "http_url")


async def test_page_can_be_disabled(serve_http, models):
    """Without http_page there is no page, and the interface is available."""
    app = await serve_http(models, http_page=False)
    async with browse(app) as web:
        assert (await web.get("/")).status_code == 404
        assert (await web.get("/v1/models")).status_code == 200
