"""Tests of imagemint.client.image_source."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from imagemint.client import (
    Client,
    ClientClosed,
    Cycle,
    InvalidRequest,
    NotFound,
    PerImage,
    ServerError,
    Unavailable,
    image_source,
)
from imagemint.client.image_source import ServerSource


def test_source_fixes_what_determines_the_images(source, mint):
    """Every read has the version, variant, seed and requested classes."""
    batch = source.read(7, 3, [2, 0, 1])
    assert batch.serials[0] == "tiny@3/5/7?class=2"
    asked = mint.requests[-1].images
    assert (asked.version, asked.variant, asked.seed) == ("3", "int8", 5)
    assert source.identity.image_shape == (4, 6, 1)
    assert source.max_images == 16


def test_seed_is_drawn_once(address):
    """A source without a seed draws one, which does not change."""
    first, second = (ServerSource(address, "tiny") for _ in range(2))
    assert first.identity.seed != second.identity.seed
    assert first.read(0, 1).seed == first.identity.seed
    first.close()


def test_read_retries_a_busy_server(source, mint, fault):
    """A full queue and an unreachable server are retried."""
    codes = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE] * 4
    mint.faults.extend(fault(code, retry_s=0.01) for code in codes)
    assert len(source.read(0, 2)) == 2
    assert not mint.faults


def test_read_fails_after_its_timeout(address, mint, fault):
    """The last failure is raised if the server's retry delay exceeds the remaining time."""
    source = ServerSource(address, "tiny", seed=1, timeout_s=60)
    mint.faults.extend(fault(grpc.StatusCode.UNAVAILABLE, retry_s=90) for _ in range(100))
    with pytest.raises(Unavailable):
        source.read(0, 1)
    source.close()


class _LongDelay:
    """Delays that nobody waits for. It says when one begins."""

    def __init__(self):
        self.begun = threading.Event()

    def compute_delay_s(self, failures, asked_s):
        """Returns more than the timeout of a test."""
        self.begun.set()
        return 600


def test_closing_a_source_ends_a_waiting_read(address, mint, fault, monkeypatch):
    """A read that waits for a busy server ends at once, and opens no further connection."""
    delay = _LongDelay()
    monkeypatch.setattr(image_source, "BACKOFF", delay)
    source = ServerSource(address, "tiny", seed=1, timeout_s=None)
    # gRPC itself makes four attempts.
    mint.faults.extend(fault(grpc.StatusCode.UNAVAILABLE) for _ in range(4))
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(source.read, 0, 1)
        assert delay.begun.wait(60)
        source.close()
        with pytest.raises(ClientClosed):
            read.result(60)
    assert source.read(0, 1).serials == ("tiny@3/1/0?class=0",)
    source.close()


def test_changed_bundle_is_an_error(source, mint):
    """Other bytes of the same version are other images."""
    source.read(0, 1)
    mint.bundle_sha256 = "ef" * 32
    with pytest.raises(ServerError, match="became") as raised:
        source.read(1, 1)
    assert raised.value.reason == "BUNDLE_CHANGED"


def test_invalid_model_is_an_error_at_once(address, fault, mint):
    """A version that is not ready, an unknown version and a class per image are refused."""
    with pytest.raises(NotFound, match=r"tiny@4 is loading"):
        ServerSource(address, "tiny", version="4")
    with pytest.raises(NotFound, match=r"no version 9; versions: 3, 4"):
        ServerSource(address, "tiny", version="9")
    with pytest.raises(InvalidRequest):
        ServerSource(address, "tiny", condition=PerImage([1]))
    for wrong in ({"seed": -1}, {"truncation": "0.7"}, {"condition": [3]}, {"version": 1.5}):
        with pytest.raises(InvalidRequest, match=f"^{next(iter(wrong))}: "):
            ServerSource(address, "tiny", **wrong)
    assert ServerSource(address, "tiny", version=3).identity.version == "3"


def test_model_without_a_default_version_is_told(address, monkeypatch):
    """While a server starts, a model has none although an older version may be ready."""
    find = Client.model
    monkeypatch.setattr(Client, "model", lambda *of: replace(find(*of), default_version=""))
    with pytest.raises(NotFound, match=r"no default version that is ready; versions: 3, 4"):
        ServerSource(address, "tiny")


def test_source_can_be_pickled(address):
    """A copy reads the same images over its own connection."""
    source = ServerSource(address, "tiny", seed=3, condition=Cycle([2]))
    before = source.read(0, 2)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made here
    assert copy.read(0, 2).serials == before.serials
    source.close()
    copy.close()
    assert copy.read(0, 1).serials == before.serials[:1]
    copy.close()
