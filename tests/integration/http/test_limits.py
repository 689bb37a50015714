"""Tests of slow, large and lost clients, deadlines and a full queue."""

import asyncio
import gzip
import json
from contextlib import asynccontextmanager

import pytest
from http_clients import EVERYWHERE, browse, open_socket

from imagemint.server.http import server
from imagemint.server.rpc import running_calls
from imagemint.server.settings import ServeSettings
from imagemint.server.telemetry.metrics import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = {"images": {"model": "digits", "count": 1}}
GENERATE = "/v1/models/digits:generate"
HEAD = f"POST {GENERATE} HTTP/1.1\r\nhost: test\r\n"


async def read_answer(reader):
    """Returns the status of a response and all bytes until the connection ends."""
    answer = await reader.read()
    return int(answer.split()[1]), answer


async def test_large_bodies_are_refused(serve_http, models):
    """A body is refused by its declared length, or when it exceeds the limit."""
    app = await serve_http(models, max_request_bytes=10_000)
    async with browse(app) as web:
        answer = await web.post(GENERATE, content=b" " * 10_001)
        assert answer.status_code == 413
        assert answer.json()["violations"][0]["field"] == "body"

        async def pieces():
            for _ in range(20):
                yield b" " * 1_000

        answer = await web.post(GENERATE, content=pieces())
        assert answer.status_code == 413
        fitting = json.dumps(ONE).encode().ljust(10_000)
        headers = {"content-type": "application/json"}
        answer = await web.post(GENERATE, content=fitting, headers=headers)
        assert answer.status_code == 200


async def test_compressed_bodies_are_refused(serve_http, models):
    """A body with a content coding gets 415, whatever it holds; `identity` is none."""
    app = await serve_http(models)
    async with browse(app) as web:
        headers = {"content-encoding": "gzip"}
        answer = await web.post(GENERATE, content=gzip.compress(b"{}"), headers=headers)
        assert answer.status_code == 415
        assert answer.json()["violations"][0]["field"] == "content-encoding"
        plain = await web.post(GENERATE, json=ONE, headers={"content-encoding": "identity"})
        assert plain.status_code == 200


async def test_large_headers_are_refused(serve_http, models):
    """A header above 16 KiB ends the connection."""
    app = await serve_http(models)
    async with open_socket(app) as (reader, writer):
        writer.write(HEAD.encode() + b"note: " + b"x" * 100_000)
        assert (await read_answer(reader))[0] == 400


@pytest.mark.parametrize("name", ["x-request-timeout", "grpc-timeout"])
async def test_second_deadline_is_refused(web, name):
    """A request with two deadlines is refused, because neither is known to be meant."""
    value = {"x-request-timeout": "5", "grpc-timeout": "5S"}[name]
    answer = await web.post(GENERATE, json=ONE, headers=[(name, value), (name, value)])
    assert answer.status_code == 400
    assert [it["field"] for it in answer.json()["violations"]] == [name]
    assert (await web.post(GENERATE, json=ONE, headers={name: value})).status_code == 200


async def test_slow_requests_time_out(serve_http, models):
    """An endless header is disconnected, and an endless body gets an answer. Others are served."""
    app = await serve_http(models, http_receive_timeout_s=1.0)
    async with open_socket(app) as (silent, _), open_socket(app) as (head, writer):
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: te")
        async with open_socket(app) as (body, other):
            other.write(f"{HEAD}content-length: 100\r\nconnection: close\r\n\r\nhalf".encode())
            async with browse(app) as web:
                assert (await web.post(GENERATE, json=ONE)).status_code == 200
            status, _ = await read_answer(body)
            assert status == 408
        with pytest.raises((ConnectionError, EOFError)):
            await head.readexactly(1)
        with pytest.raises((ConnectionError, EOFError)):
            await silent.readexactly(1)


async def test_slow_bodies_do_not_count_as_calls(serve_http, models):
    """A call counts from the end of its request."""
    app = await serve_http(models, max_concurrent_calls=1, max_calls_per_caller=1)
    async with open_socket(app) as (_, writer):
        writer.write(f"{HEAD}content-length: 100\r\n\r\nhalf".encode())
        async with browse(app) as web:
            for _ in range(3):
                assert (await web.post(GENERATE, json=ONE)).status_code == 200


@asynccontextmanager
async def keep_call_running(app):
    """Provides an HTTP client while one of its calls runs. The call must succeed afterwards."""
    backend = app.backends["digits"]
    await backend.begun()  # the warm-up
    backend.hold()
    async with browse(app) as web:
        call = asyncio.create_task(web.post(GENERATE, json=ONE))
        await backend.begun()
        yield web
        backend.release()
        assert (await call).status_code == 200


async def test_call_may_outlast_the_arrival_of_requests(serve_http, models, held_kind):
    """http_receive_timeout_s ends with the request: the answer may take longer."""
    app = await serve_http(models, held_kind, http_receive_timeout_s=0.1)
    async with keep_call_running(app), open_socket(app) as (later, writer):
        writer.write(HEAD.encode())
        with pytest.raises((ConnectionError, EOFError)):
            await later.readexactly(1)


async def test_refused_requests_take_no_place(serve_http, models, held_kind):
    """A request that cannot be read is refused for that reason, even if no call is admitted."""
    app = await serve_http(models, held_kind, max_calls_per_caller=1)
    async with keep_call_running(app) as web:
        assert (await web.post(GENERATE, json=ONE)).status_code == 429
        answer = await web.post(GENERATE, content=b"x", headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["reason"]) == (415, "INVALID_REQUEST")


async def test_unread_stream_is_disconnected(serve_http, models, scrape, total, until):
    """A client that reads nothing for stall_timeout_s is disconnected, and its memory is freed."""
    app = await serve_http(models, stall_timeout_s=0.2)
    body = json.dumps({"images": {"count": 10**9}})
    async with open_socket(app) as (_, writer):
        path = "/v1/models/digits:streamGenerate"
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())

        async def is_ended():
            samples = await scrape(app.metrics_address)
            running = total(samples, "imagemint_inflight_requests")
            ended = total(samples, "imagemint_ended_calls_total", reason="stalled")
            return ended == 1 and not running and not total(samples, "imagemint_bytes_in_flight")

        await until(is_ended)


async def test_end_of_an_answer_may_not_wait_for_ever(monkeypatch, until):
    """An idle connection whose client leaves the end of its last answer unread is closed."""
    monkeypatch.setattr(server, "_KEEP_ALIVE_S", 0)
    size = 64 * 2**20  # more than the buffers of the operating system take

    async def application(scope, receive, send):
        length = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": bytes(size)})

    settings = ServeSettings(stall_timeout_s=0.1, **EVERYWHERE)
    listener = server.HttpServer(
        settings, application, Metrics(), max_connections=9, shares_port=False
    )
    await listener.start(settings.http_address)
    connections = listener._server.server_state.connections

    async def is_open():
        return len(connections) == 1

    async def is_closed():
        return not connections

    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    await until(is_open)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    await until(is_closed)
    with pytest.raises((ConnectionError, EOFError)):
        await reader.readexactly(size)
    writer.close()
    await listener.stop()


async def test_expired_call_is_not_computed(held_site):
    """The deadline is in seconds, or in the format of gRPC. Waiting images are not computed."""
    backend = held_site.backends["digits"]
    async with browse(held_site) as web:
        for headers in ({"x-request-timeout": "0.1"}, {"grpc-timeout": "100m"}):
            answer = await web.post(GENERATE, json=ONE, headers=headers)
            assert answer.status_code == 504
            assert answer.json()["code"] == "DEADLINE_EXCEEDED"
            assert answer.json()["request_id"] == answer.headers["x-request-id"] != ""
        for headers in ({"x-request-timeout": "soon"}, {"grpc-timeout": "1"}):
            answer = await web.post(GENERATE, json=ONE, headers=headers)
            assert answer.json()["violations"][0]["field"] in headers
            assert (await web.get("/v1/models", headers=headers)).status_code == 400
        backend.release()
        assert (await web.post(GENERATE, json=ONE)).status_code == 200
    assert sum(backend.sizes) <= 2  # the held batch and the last call


async def test_disconnected_client_leaves_the_queue(held_site, scrape, total, until):
    """The images of a client that disconnects leave the queue."""
    backend = held_site.backends["digits"]
    waiting = {"images": {"count": 20}}

    def queued(samples):
        return total(samples, "imagemint_queue_images", model="digits")

    async def is_full():
        return queued(await scrape(held_site.metrics_address)) >= 20

    async def is_empty():
        return not queued(await scrape(held_site.metrics_address))

    async with browse(held_site) as web:
        first = asyncio.create_task(web.post(GENERATE, json=ONE))
        await backend.begun()
        leaving = asyncio.create_task(web.post(GENERATE, json=waiting))
        await until(is_full)
        refused = await web.post(GENERATE, json=waiting)
        assert refused.status_code == 429
        assert refused.json()["reason"] == "QUEUE_FULL"
        assert int(refused.headers["retry-after"]) >= refused.json()["retry_delay_s"]
        leaving.cancel()
        await until(is_empty)
        backend.release()
        assert (await first).status_code == 200
    assert sum(backend.sizes) == 1


async def test_connections_are_limited(serve_http, models, monkeypatch):
    """A connection above max_connections is closed."""
    # The server closes idle connections when they are scarce, but not during this test.
    monkeypatch.setattr(running_calls, "_CHECK_INTERVAL_S", 3_600.0)
    app = await serve_http(models, max_connections=2)
    async with open_socket(app), browse(app) as web:
        assert (await web.get("/healthz")).status_code == 200
        async with open_socket(app) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
            with pytest.raises((ConnectionError, EOFError)):
                await reader.readexactly(1)
