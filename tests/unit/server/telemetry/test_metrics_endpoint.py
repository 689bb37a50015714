"""Tests of the HTTP endpoint of the metrics over real connections on loopback."""

import gzip
import http.client
import os
import resource
import socket
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import Counter

from imagemint.server.telemetry import metrics_endpoint as exposition
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.metrics_endpoint import accepts_gzip, expose

WAIT_S = 60


@contextmanager
def serve_registry(registry):
    """Serves a registry and yields host and port."""
    address, stop = expose("127.0.0.1:0", registry)
    host, port = address.split(":")
    try:
        yield host, int(port)
    finally:
        stop()


def send_request(where, path="/metrics", method="GET", **headers):
    """Sends one request and returns the response and its body."""
    with closing(http.client.HTTPConnection(*where, timeout=WAIT_S)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


@pytest.fixture
def metrics():
    """A registry with one counted call and one that is deferred."""
    metrics = Metrics()
    counted = metrics.requests.labels("s", "m", "tiny", "OK")
    counted.inc()
    late = metrics.backlog.make_buffer(lambda values: counted.inc(len(values)))
    late.add(1)
    yield metrics
    del late  # the backlog does not keep it


def test_head_is_a_get_without_body(metrics):
    """HEAD has the same status and headers as GET, including the length."""
    with serve_registry(metrics.registry) as where:
        _, body = send_request(where, "/metrics?name[]=imagemint_requests_total")
        head, nothing = send_request(where, "/metrics?name[]=imagemint_requests_total", "HEAD")
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
def test_content_encoding_is_negotiated(metrics, header, packed):
    """A quality of zero excludes gzip, as in RFC 9110."""
    assert accepts_gzip(header) is packed
    with serve_registry(metrics.registry) as where:
        answer, body = send_request(where, **{"Accept-Encoding": header})
    assert answer.headers.get("Content-Encoding") == ("gzip" if packed else None)
    text = gzip.decompress(body) if packed else body
    assert b"imagemint_build_info" in text


def test_filtered_scrape_is_up_to_date(metrics):
    """Deferred values are counted first, and only the requested metrics are returned."""
    with serve_registry(metrics.registry) as where:
        _, body = send_request(where, "/metrics?name[]=imagemint_requests_total&name[]=nothing")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    (line,) = lines
    assert line.startswith("imagemint_requests_total{")
    assert line.endswith(" 2.0")


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("DELETE", 405), ("OPTIONS", 204)])
def test_other_methods_get_the_allowed_ones(metrics, method, status):
    """Other methods get the list of allowed methods and no metrics."""
    with serve_registry(metrics.registry) as where:
        answer, _ = send_request(where, method=method)
    assert answer.status == status
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_failing_collector_does_not_break_the_scrape(metrics):
    """The metrics that were read before the failure are returned."""

    class Broken:
        def describe(self):
            return ()

        def collect(self):
            raise RuntimeError("no GPU any more")

    metrics.registry.register(Broken())
    with serve_registry(metrics.registry) as where:
        answer, body = send_request(where)
    assert answer.status == 200
    assert b"imagemint_requests_total{" in body


def test_idle_connections_are_closed_for_a_scrape(metrics):
    """The endpoint closes the oldest connections, so a scrape is answered beside any number."""
    with serve_registry(metrics.registry) as where, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(where, WAIT_S)) for _ in range(100)]
        answer, _ = send_request(where)
        assert answer.status == 200
        assert idle[0].recv(1) == b""


def test_scrape_waits_for_threads_of_closed_connections(metrics, monkeypatch):
    """A scrape that arrives while these threads still end is answered instead of refused."""
    finish = exposition._Server.finish_request

    def finish_late(server, request, client_address):
        try:
            finish(server, request, client_address)
        finally:
            time.sleep(0.2)

    monkeypatch.setattr(exposition._Server, "finish_request", finish_late)
    with serve_registry(metrics.registry) as where, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(where, WAIT_S))
        answer, _ = send_request(where)
    assert answer.status == 200


def test_idle_connection_times_out(metrics, monkeypatch):
    """The time limit also applies to a connection that sends a byte from time to time."""
    monkeypatch.setattr(exposition, "_CONNECTION_S", 0.2)
    with serve_registry(metrics.registry) as where, socket.create_connection(where, WAIT_S) as idle:
        idle.sendall(b"GET /metr")
        assert idle.recv(1) == b""


@contextmanager
def exhaust_descriptors():
    """Uses up all file descriptors of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Other tests of this process may have left any number of files open.
    most = 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir())
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


def test_scrape_works_without_free_descriptors(metrics):
    """The endpoint has spare descriptors, which it closes for a scrape."""
    with serve_registry(metrics.registry) as where, socket.socket() as client:
        client.settimeout(WAIT_S)
        with exhaust_descriptors():
            client.connect(where)
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert send_request(where)[0].status == 200


def test_used_address_is_refused():
    """The error has the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
            expose(address, Metrics().registry)


def test_samples_can_be_filtered_by_name():
    """A filter accepts the name of one sample or of the whole metric."""
    metrics = Metrics()
    metrics.batch_images.labels("tiny", "1").observe(3)
    Counter("other", "Another.", registry=metrics.registry)
    with serve_registry(metrics.registry) as where:
        _, part = send_request(where, "/metrics?name[]=imagemint_batch_images_sum")
        _, whole = send_request(where, "/metrics?name[]=imagemint_batch_images")
    assert b"# TYPE imagemint_batch_images histogram" in part
    assert b"_bucket" not in part
    assert b"_bucket" in whole
    assert b"other" not in part + whole
