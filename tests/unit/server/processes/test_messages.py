"""Tests of the messages between supervisor and workers, which are sent as JSON."""

import math
import socket
from pathlib import Path

import pytest

from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import (
    Answers,
    Ask,
    Begin,
    Drain,
    Failed,
    Heartbeat,
    Question,
    Ready,
    Reload,
    Reply,
    Served,
    ServedElsewhere,
)
from imagemint.server.processes.worker_metrics import Family
from imagemint.server.settings import ServeSettings

SETTINGS = ServeSettings(
    repository=Path("/srv/models"), processes=2, version_policies={"mnist": "latest:2"}
)
VALUES = {("a_total", (("model", "ä\n"), ("version", "1"))): 2.5, ("a_created", ()): math.inf}
MESSAGES = [
    Begin(1, SETTINGS, 7, (Question(3, "load", ["mnist", True]),), {"mnist": [1]}),
    Ready({"mnist": [1, 2]}),
    Served({"mnist": [2]}),
    ServedElsewhere({"mnist": [1, 2]}),
    Failed("no such directory"),
    Heartbeat(),
    Heartbeat([Family("a", "Counts.", "counter", VALUES)]),
    Reload(),
    Drain(),
    Ask(1, "load", {"name": "mnist"}, "model mnist", 1.5),
    Question(1, "statistics", None),
    Reply(1, 0, ["done", None]),
    Answers(2, [Reply(1, 0), Reply(1, 1, error="worker 1 died")]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each).__name__)
async def test_message_is_received_unchanged(message):
    """All parts keep their types: tuples, paths and numbers that are not finite."""
    ends = socket.socketpair()
    sender, receiver = [await Channel.from_socket(end) for end in ends]
    sender.send(message)
    sender.send(Drain())
    assert await receiver.receive() == message
    assert await receiver.receive() == Drain()
    await sender.close()
    assert await receiver.receive() is None
    await receiver.close()


async def test_incomplete_message_ends_the_channel():
    """A worker that dies while it sends is gone, and its last message is discarded."""
    ours, theirs = socket.socketpair()
    receiver = await Channel.from_socket(ours)
    theirs.sendall((100).to_bytes(8) + b"Heartbeat {")
    theirs.close()
    assert await receiver.receive() is None
    await receiver.close()
