"""Tests of API keys, TLS and drain over HTTP, which behave as over gRPC."""

import asyncio
import ssl

import httpx
import pytest
import trustme
from http_clients import browse, open_socket

from imagemint.server.access.api_keys import compute_digest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = {"images": {"count": 1}}
GENERATE = "/v1/models/digits:generate"
KEYS = {name: f"imk_{name:k<43}" for name in ("all", "plain", "slow")}
KEY_FILE = f"""
[[key]]
name = "all"
sha256 = "{compute_digest(KEYS["all"])}"

[[key]]
name = "plain"
sha256 = "{compute_digest(KEYS["plain"])}"
models = ["plain"]

[[key]]
name = "slow"
sha256 = "{compute_digest(KEYS["slow"])}"
rate_images_per_s = 1
burst_images = 20
"""


def make_headers(name):
    """Returns the header with a key."""
    return {"authorization": f"Bearer {KEYS[name]}"}


async def test_keys_are_required(serve_http, models, tmp_path):
    """Without a key only health is available. Each key has its models and its rate."""
    keys = tmp_path / "keys.toml"
    keys.write_text(KEY_FILE)
    app = await serve_http(models, api_keys=keys)
    image = "/v1/models/digits/versions/1/images/1/0.png"
    async with browse(app) as web:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            for answer in (
                await web.post(GENERATE, json=ONE, headers=headers),
                await web.get("/v1/models", headers=headers),
                await web.get(image, headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["reason"] == "UNAUTHENTICATED"
        assert (await web.get("/healthz")).status_code == 200
        answer = await web.get(image, headers={"x-api-key": KEYS["all"]})
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answer.headers["vary"] == "authorization, x-api-key"
        tag = answer.headers["etag"]
        forbidden = make_headers("plain") | {"if-none-match": tag}
        for answer in (
            await web.post(GENERATE, json=ONE, headers=make_headers("plain")),
            await web.get(image, headers=forbidden),
            await web.get("/v1/models/digits/versions/1/card.md", headers=make_headers("plain")),
        ):
            assert answer.status_code == 403
            assert answer.json()["reason"] == "NOT_ALLOWED"
        listed = (await web.get("/v1/models", headers=make_headers("plain"))).json()["models"]
        assert [each["name"] for each in listed] == ["plain"]
        many = {"images": {"count": 20}}
        assert (
            await web.post(GENERATE, json=many, headers=make_headers("slow"))
        ).status_code == 200
        answer = await web.post(GENERATE, json=many, headers=make_headers("slow"))
        assert (answer.status_code, answer.json()["reason"]) == (429, "RATE_LIMITED")
        assert 1 <= int(answer.headers["retry-after"]) <= 20


async def test_drain_completes_accepted_calls(held_site):
    """Readiness fails first, accepted calls finish, and new ones are refused."""
    backend = held_site.backends["digits"]
    async with browse(held_site) as web:
        accepted = asyncio.create_task(web.post(GENERATE, json={"images": {"count": 3}}))
        await backend.begun()
        stopping = asyncio.create_task(held_site.stop())
        while (await web.get("/readyz")).status_code == 200:
            pass
        assert (await web.get("/healthz")).status_code == 200
        # Readiness fails a moment before calls are refused; the held model answers none of these.
        short = {"x-request-timeout": "0.05"}
        while (answer := await web.post(GENERATE, json=ONE, headers=short)).status_code in {
            429,
            504,
        }:
            pass
        assert answer.status_code == 503
        assert answer.json()["reason"] == "DRAINING"
        assert answer.headers["retry-after"] == "1"
        backend.release()
        assert (await accepted).status_code == 200
        await stopping
    with pytest.raises(OSError, match=r"refused|failed"):
        async with open_socket(held_site):
            pass


async def test_drain_under_load_loses_no_call(serve_http, models):
    """Every response is an image or a refusal with a retry time."""
    app = await serve_http(models)
    statuses, answered = set(), asyncio.Event()

    async def call():
        async with browse(app) as web:
            while True:
                try:
                    answer = await web.post(GENERATE, json={"images": {"count": 8}})
                except httpx.ConnectError:  # the listener is closed
                    return
                statuses.add(answer.status_code)
                if answer.status_code == 200:
                    assert len(answer.json()["batch"]["images"]) == 8
                    answered.set()
                else:
                    assert answer.json()["reason"] == "DRAINING"
                    assert answer.headers["connection"] == "close"
                    return

    calls = [asyncio.create_task(call()) for _ in range(12)]
    await answered.wait()
    await app.stop()
    await asyncio.gather(*calls)
    assert statuses == {200, 503}


async def test_tls_certificate_is_renewed(
    serve_http, models, authority, write_certificate, tmp_path
):
    """HTTPS uses the files of the gRPC listener and loads a new pair without a restart."""
    certificate, key = write_certificate(authority, tmp_path)
    app = await serve_http(models, tls_certificate=certificate, tls_key=key)
    assert app.http_url.startswith("https://")

    async def see():
        """Returns the serial number of the certificate of a new connection."""
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.check_hostname = False
        port = httpx.URL(app.http_url).port
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        found = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return found

    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = False
    async with browse(app, verify=context) as web:
        assert (await web.post(GENERATE, json=ONE)).status_code == 200
    before = await see()
    write_certificate(authority, tmp_path)
    assert await see() != before


async def test_client_authorities_are_renewed(
    serve_http, models, authority, write_certificate, tmp_path
):
    """After a renewal, clients with a certificate of the authorities in the file are answered."""
    roots = tmp_path / "clients.pem"
    authority.cert_pem.write_to_path(roots)
    certificate, key = write_certificate(authority, tmp_path)
    app = await serve_http(models, tls_certificate=certificate, tls_key=key, tls_client_ca=roots)

    async def is_answered(issuer):
        """Returns whether a new connection with a certificate of this authority is answered."""
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.check_hostname = False
        context.load_cert_chain(*write_certificate(issuer, tmp_path, "caller.test", "caller"))
        try:
            async with browse(app, verify=context) as web:
                return (await web.post(GENERATE, json=ONE)).status_code == 200
        except (httpx.ConnectError, httpx.ReadError):
            return False

    newer = trustme.CA()
    assert await is_answered(authority)
    assert not await is_answered(newer)
    write_certificate(authority, tmp_path)  # a new pair, and the same authorities for clients
    assert await is_answered(authority)
    newer.cert_pem.write_to_path(roots)
    assert await is_answered(newer)
    assert not await is_answered(authority)
