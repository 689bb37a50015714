"""The HTTP endpoint of the metrics: real connections on loopback."""

import gzip
import http.client
import os
import resource
import socket
import time
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from prometheus_client import Counter

from imagemint.server.telemetry import metrics_endpoint as exposition
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.metrics_endpoint import accepts_gzip, expose

WAIT_S = 60


@contextmanager
def exposed(registry):
    """The endpoint of a registry; yields host and port."""
    address, stop = expose("127.0.0.1:0", registry)
    host, port = address.split(":")
    try:
        yield host, int(port)
    finally:
        stop()


def ask(where, path="/metrics", method="GET", **headers):
    """One request; returns the answer and its body."""
    with closing(http.client.HTTPConnection(*where, timeout=WAIT_S)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


@pytest.fixture
def metrics():
    """A registry with one call counted, and another still put off."""
    metrics = Metrics()
    counted = metrics.requests.labels("s", "m", "tiny", "OK")
    counted.inc()
    late = metrics.backlog.later(lambda values: counted.inc(len(values)))
    late.add(1)
    yield metrics
    del late  # the backlog does not keep it


def test_head_is_a_get_without_body(metrics):
    """The same status and headers, the length included."""
    with exposed(metrics.registry) as where:
        _, body = ask(where, "/metrics?name[]=imagemint_requests_total")
        head, nothing = ask(where, "/metrics?name[]=imagemint_requests_total", "HEAD")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(head.headers["Content-Length"]) == len(body) > 0


@pytest.mark.parametrize(
    ("header", "packed"),
    [
        ("gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, identity", False),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("", False),
    ],
)
def test_coding_is_what_was_asked_for(metrics, header, packed):
    """As RFC 9110 has it: a quality of zero forbids."""
    assert accepts_gzip(header) is packed
    with exposed(metrics.registry) as where:
        answer, body = ask(where, **{"Accept-Encoding": header})
    assert answer.headers.get("Content-Encoding") == ("gzip" if packed else None)
    text = gzip.decompress(body) if packed else body
    assert b"imagemint_build_info" in text


def test_filtered_scrape_is_up_to_date(metrics):
    """What was put off is counted first, and only what was asked for is told."""
    with exposed(metrics.registry) as where:
        _, body = ask(where, "/metrics?name[]=imagemint_requests_total&name[]=nothing")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    (line,) = lines
    assert line.startswith("imagemint_requests_total{")
    assert line.endswith(" 2.0")


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("DELETE", 405), ("OPTIONS", 204)])
def test_other_methods_are_told_which_there_are(metrics, method, status):
    """And nothing is measured for them."""
    with exposed(metrics.registry) as where:
        answer, _ = ask(where, method=method)
    assert answer.status == status
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_failing_collector_does_not_end_the_scrape(metrics):
    """What was read before it is told."""

    class Broken:
        def describe(self):
            return ()

        def collect(self):
            raise RuntimeError("no GPU any more")

    metrics.registry.register(Broken())
    with exposed(metrics.registry) as where:
        answer, body = ask(where)
    assert answer.status == 200
    assert b"imagemint_requests_total{" in body


def test_idle_connections_make_way(metrics):
    """However many there are and stay, a scrape is answered; the oldest are closed."""
    with exposed(metrics.registry) as where, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(where, WAIT_S)) for _ in range(100)]
        answer, _ = ask(where)
        assert answer.status == 200
        assert idle[0].recv(1) == b""


def test_slow_threads_of_closed_connections_are_awaited(metrics, monkeypatch):
    """A scrape that comes while they still end is answered, not refused."""
    finish = exposition._Server.finish_request

    def finish_late(server, request, client_address):
        try:
            finish(server, request, client_address)
        finally:
            time.sleep(0.2)

    monkeypatch.setattr(exposition._Server, "finish_request", finish_late)
    with exposed(metrics.registry) as where, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(where, WAIT_S))
        answer, _ = ask(where)
    assert answer.status == 200


def test_idle_connection_ends(metrics, monkeypatch):
    """Even one that sends a byte now and then."""
    monkeypatch.setattr(exposition, "_CONNECTION_S", 0.2)
    with exposed(metrics.registry) as where, socket.create_connection(where, WAIT_S) as idle:
        idle.sendall(b"GET /metr")
        assert idle.recv(1) == b""


@contextmanager
def no_descriptors_left(most=256):
    """This process may open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    opened = []
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in opened:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_scrape_needs_no_free_descriptor(metrics):
    """When the process has used up its own, those that were kept are given up for it."""
    with exposed(metrics.registry) as where, socket.socket() as client:
        client.settimeout(WAIT_S)
        with no_descriptors_left():
            client.connect(where)
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert ask(where)[0].status == 200


def test_taken_address_is_told():
    """With the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
            expose(address, Metrics().registry)


def test_samples_keep_their_family():
    """A name of one sample or of the whole metric is enough."""
    metrics = Metrics()
    metrics.batch_images.labels("tiny", "1").observe(3)
    Counter("other", "Another.", registry=metrics.registry)
    with exposed(metrics.registry) as where:
        _, part = ask(where, "/metrics?name[]=imagemint_batch_images_sum")
        _, whole = ask(where, "/metrics?name[]=imagemint_batch_images")
    assert b"# TYPE imagemint_batch_images histogram" in part
    assert b"_bucket" not in part
    assert b"_bucket" in whole
    assert b"other" not in part + whole
