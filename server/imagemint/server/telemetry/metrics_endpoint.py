"""The HTTP endpoint for Prometheus, on a bounded number of its own threads."""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import Metric, make_wsgi_app
from prometheus_client.registry import Collector

from imagemint.server.settings import join_address, split_address

_log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 16
# Limit for the whole connection. By default, Prometheus gives up after ten seconds.
_CONNECTION_S = 15.0
_LOOK_S = 0.5
# Limit for the wait until the threads of closed connections end.
_CLOSING_S = 5.0
# Reserved file descriptors. A scrape needs some even if the process has used up all others.
_SPARE_DESCRIPTORS = 8


def expose(address: str, registry: Collector) -> tuple[str, Callable[[], None]]:
    """Serves a registry at /metrics; returns the actual HOST:PORT and a function that stops it.

    Args:
        address: HOST:PORT; port 0 selects a free port.
        registry: the metrics to serve. If a collector fails, the error is logged, and the metrics
            of this collector and of those after it are left out.

    Raises:
        OSError: the address is not available.
    """
    host, port = split_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = _Server(family, where, _make_application(registry))
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    thread = threading.Thread(
        target=server.serve_forever, args=(_LOOK_S,), name="metrics", daemon=True
    )
    thread.start()

    def stop() -> None:
        ending = threading.Thread(target=server.shutdown)
        ending.start()
        with contextlib.suppress(
            OSError
        ):  # wakes the loop, which otherwise checks twice per second
            server.socket.shutdown(socket.SHUT_RDWR)
        ending.join()
        server.server_close()
        thread.join()

    return join_address(host, server.server_port), stop


class _Server(WSGIServer):
    """Runs one thread per connection; beyond the limit, a new connection closes the oldest one."""

    request_queue_size = 64

    def __init__(self, family: int, address: Any, application: Any) -> None:  # noqa: ANN401 - as of socket and WSGI
        self.address_family = family
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._open: dict[socket.socket, float] = {}
        self._closing: set[socket.socket] = set()  # shut down; the thread has not closed it yet
        self._spare: list[int] = []
        super().__init__(address, _Handler)
        self.set_app(application)
        self._save_descriptors()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection, even if the process has no file descriptor left."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._release_descriptors()
            try:
                return super().get_request()
            except OSError:
                time.sleep(_LOOK_S)  # avoids a busy loop of retries
                raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as of the base class
        """Starts a thread for a connection."""
        with self._lock:
            if len(self._open) >= _MOST_CONNECTIONS:
                self._cut(next(iter(self._open)))
            # The threads of closed connections end at once, but a busy machine delays them.
            crowded = not self._ended.wait_for(
                lambda: len(self._closing) < _MOST_CONNECTIONS, _CLOSING_S
            )
            self._open[request] = time.monotonic()
        if crowded:
            self._end(request)
            return
        thread = threading.Thread(
            target=self._converse, args=(request, client_address), name="scrape", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._end(request)

    def _converse(self, request: socket.socket, client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or took too long
        except Exception:  # noqa: BLE001 - the next scrape may succeed
            _log.exception("scrape failed")
        finally:
            self._end(request)

    def _end(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
            self._closing.discard(request)
            self._ended.notify_all()
        self.shutdown_request(request)

    def _cut(self, request: socket.socket) -> None:
        """Shuts a connection down, so that its thread wakes and closes it; holds the lock."""
        del self._open[request]
        self._closing.add(request)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def service_actions(self) -> None:
        """Closes connections that are too old; called twice per second and per connection."""
        before = time.monotonic() - _CONNECTION_S
        with self._lock:
            for request in [each for each, since in self._open.items() if since < before]:
                self._cut(request)
            idle = not self._open and not self._closing
        if idle and not self._spare:
            self._save_descriptors()

    def _save_descriptors(self) -> None:
        try:
            for _ in range(_SPARE_DESCRIPTORS):
                self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:  # retried later
            self._release_descriptors()

    def _release_descriptors(self) -> None:
        while self._spare:
            os.close(self._spare.pop())

    def server_close(self) -> None:
        """Stops listening and closes the remaining connections."""
        super().server_close()
        self._release_descriptors()
        with self._lock:
            for request in list(self._open):
                self._cut(request)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as of the base class
        """Does not log requests."""


def _make_application(registry: Collector) -> WSGIApplication:
    """Returns prometheus-client's application, extended by HEAD and ``gzip;q=0``."""
    # Its annotations require its own registry class, but it uses only the methods of ours.
    inner = make_wsgi_app(cast("Any", _Registry(registry)))

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            status = "204 No Content" if method == "OPTIONS" else "405 Method Not Allowed"
            start(status, [("Allow", "GET, HEAD, OPTIONS")])
            return []
        coding = "gzip" if accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")) else ""
        replies: list[tuple[str, list[tuple[str, str]]]] = []
        body = list(
            inner(
                environ | {"REQUEST_METHOD": "GET", "HTTP_ACCEPT_ENCODING": coding},
                lambda status, headers: replies.append((status, headers)),
            )
        )
        ((status, headers),) = replies
        length = str(sum(map(len, body)))
        start(status, [*headers, ("Vary", "Accept-Encoding"), ("Content-Length", length)])
        return body if method == "GET" else []

    return application


def accepts_gzip(header: str) -> bool:
    """Returns whether an ``Accept-Encoding`` header allows gzip (RFC 9110; ``q=0`` forbids it)."""
    qualities: dict[str, float] = {}
    for element in header.split(","):
        coding, *parameters = (part.strip().lower() for part in element.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        qualities[coding] = quality
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


class _Registry:
    """Collects all metrics even for a filtered scrape, so that every value is up to date."""

    def __init__(self, registry: Collector, names: frozenset[str] | None = None) -> None:
        self._registry = registry
        self._names = names

    def restricted_registry(self, names: Iterable[str]) -> "_Registry":
        """Returns a registry with only the samples or metrics of these names."""
        return _Registry(self._registry, frozenset(names))

    def collect(self) -> Iterator[Metric]:
        """Yields the selected metrics."""
        try:
            for family in self._registry.collect():
                if (part := self._select_part(family)) is not None:
                    yield part
        except Exception:  # noqa: BLE001 - the metrics read so far are still served
            _log.exception("some metrics could not be read")

    def _select_part(self, family: Metric) -> Metric | None:
        if self._names is None or family.name in self._names:
            return family
        samples = [sample for sample in family.samples if sample.name in self._names]
        if not samples:
            return None
        part = Metric(family.name, family.documentation, family.type)
        part.samples = samples
        return part
