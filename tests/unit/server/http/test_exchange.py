"""Tests of imagemint.server.http.exchange with the ASGI messages of a request."""

import asyncio
import json
import threading

import pytest

from imagemint.server.http.exchange import Exchange
from imagemint.server.http.json_messages import encode_line
from imagemint.server.http.problems import Problem
from imagemint.v1 import generation_service_pb2 as messages


def make_scope(**headers):
    """Returns the ASGI scope of a request with these headers."""
    return {
        "type": "http",
        "method": "POST",
        "client": None,
        "query_string": b"",
        "path_params": {},
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }


async def receive():
    """Receives nothing."""
    await asyncio.Event().wait()


async def ignore(message):
    """Sends nothing."""


class SlowClient:
    """Takes `room` messages at once, and the others when `has_room` is set."""

    def __init__(self, room):
        self.room = room
        self.has_room = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.body = b""

    async def send(self, message):
        """Waits for room before it takes the message, as uvicorn does."""
        if not self.room:
            self.is_waiting.set()
            await self.has_room.wait()
        self.room = max(0, self.room - 1)
        self.body += message.get("body", b"")


@pytest.mark.parametrize(
    ("images", "picture_bytes", "is_elsewhere"),
    [(3, 1_000, False), (64, 1_000, True), (3, 50_000, True), (1, 2**20, True)],
)
async def test_large_line_is_encoded_on_another_thread(
    images, picture_bytes, is_elsewhere, monkeypatch
):
    """The event loop runs other calls while many images, or large ones, become JSON."""
    threads = []

    def encode(message):
        threads.append(threading.current_thread())
        return encode_line(message)

    monkeypatch.setattr("imagemint.server.http.exchange.encode_line", encode)
    message = messages.StreamGenerateResponse()
    for index in range(images):
        message.batch.images.add(index=index)
        message.batch.pictures.append(bytes(picture_bytes))
    await Exchange(make_scope(), receive, ignore, 0).context.write(message)
    assert [thread is not threading.current_thread() for thread in threads] == [is_elsewhere]


@pytest.mark.parametrize("room", [1, 2, 3])
async def test_error_is_a_line_of_its_own(room):
    """A stream that ends in the middle of a line completes it before the line of the error."""
    client = SlowClient(room)
    exchange = Exchange(make_scope(), receive, client.send, 0)
    serials = [f"digits@1/7/{index}" for index in range(4_000)]
    answer = messages.StreamGenerateResponse()
    for serial in serials:
        answer.batch.images.add(serial=serial)
    writing = asyncio.create_task(exchange.context.write(answer))
    await client.is_waiting.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    client.has_room.set()
    await exchange.answer_problem(Problem(504, "too late", "DEADLINE_EXCEEDED"))
    first, last = map(json.loads, client.body.splitlines())
    assert [each["serial"] for each in first["batch"]["images"]] == serials
    assert last["error"]["code"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x_request_timeout": "2.5"}, 2.5),
        ({"grpc_timeout": "2H"}, 7_200),
        ({"grpc_timeout": "3M"}, 180),
        ({"grpc_timeout": "4S"}, 4),
        ({"grpc_timeout": "99999999m"}, 99_999.999),
        ({"grpc_timeout": "90000000u"}, 90),
        ({"grpc_timeout": "99999999n"}, 0.099_999_999),
        ({"x_request_timeout": "30", "grpc_timeout": "5S"}, 30),
    ],
)
async def test_deadline_has_the_units_of_its_header(headers, seconds, monkeypatch):
    """Seconds, or a number and a unit as in gRPC; the first header counts if both are there."""
    monkeypatch.setattr("imagemint.server.http.exchange.time.monotonic", lambda: 100.0)
    exchange = Exchange(make_scope(**headers), receive, ignore, 0)
    expected = None if seconds is None else pytest.approx(100 + seconds)
    assert exchange.deadline == expected
