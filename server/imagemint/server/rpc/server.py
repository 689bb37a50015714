"""The gRPC server: services, health, reflection, limits."""

from __future__ import annotations  # the type of the tracing is imported for type checkers only

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from imagemint.engine.errors import Draining
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.access.api_keys import KeyRing
from imagemint.server.access.caller import Guard
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.processes.workers import Peers
from imagemint.server.repository import ModelRepository
from imagemint.server.repository.model_control import ModelControl
from imagemint.server.rpc.channel_options import (
    build_channel_options,
    compute_connection_limit,
    make_server_credentials,
)
from imagemint.server.rpc.health import HealthReporter
from imagemint.server.rpc.open_inference.service import InferenceServicer
from imagemint.server.rpc.routes import Routes
from imagemint.server.rpc.running_calls import RunningCalls
from imagemint.server.rpc.submission import Gate
from imagemint.server.rpc.v1.generation import GenerationServicer
from imagemint.server.rpc.v1.models import ModelServicer
from imagemint.server.settings import ServeSettings, join_address, split_address
from imagemint.server.telemetry.metrics import Metrics
from imagemint.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

if TYPE_CHECKING:  # OpenTelemetry is imported only when something is traced
    from imagemint.server.telemetry.tracing import Tracing

_log = structlog.stdlib.get_logger(__name__)

_SERVICES = (
    generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
# Callers that a draining server refuses are told to wait for so long.
_RETRY_DELAY_S = 1.0
# Without a call for so long, callers have heard that the server is leaving.
_QUIET_S = 0.1
_MOST_PAUSES = 10
# Longer than a watcher of the health service takes to be told, unless he does not read.
_WATCHER_TIMEOUT_S = 1.0
_CHECK_INTERVAL_S = 0.05
_MOST_ABANDONED = 4
_RETRY_S = 1.0


class RpcServer:
    """The gRPC side of the server, on the running event loop.

    Health knows the whole server as '', each service by its full name, and each model as
    ``model/<name>`` and ``model/<name>/<version>``.

    Args:
        settings: addresses and limits.
        repository: the models.
        metrics: where to count.
        encoders: threads that encode pictures.
        tracing: what makes spans, or None.
        control: loads and unloads the models.
        peers: the workers of which this is one; by default it is alone.

    Raises:
        KeyFileError, CertificateError: the files of the settings cannot be used.
    """

    def __init__(
        self,
        settings: ServeSettings,
        repository: ModelRepository,
        metrics: Metrics,
        encoders: ThreadPoolExecutor,
        tracing: Tracing | None = None,
        *,
        control: ModelControl,
        peers: Peers | None = None,
    ) -> None:
        peers = peers or Peers()
        self._shares_port = peers.several
        self.gate = Gate()
        self._health = _Health()
        self._guard = _make_guard(settings, metrics)
        max_connections = compute_connection_limit(settings)
        budget = Budget(settings.max_bytes_in_flight)
        metrics.watch(metrics.bytes_in_flight, (), lambda: budget.held_bytes)
        self._running_calls = RunningCalls(
            self._guard,
            budget,
            metrics,
            stall_timeout_s=settings.stall_timeout_s,
            max_connections=max_connections,
        )
        self._credentials = make_server_credentials(settings, metrics)
        self._health_reporter = HealthReporter(repository, self._set_serving)
        self._routes = routes = Routes(
            metrics,
            self._guard,
            self._running_calls,
            access_log=settings.access_log,
            tracing=tracing,
        )
        adding = cast("grpc.aio.Server", routes)  # of a server they use what Routes has
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(repository, metrics, self.gate, encoders), adding
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(repository, settings.max_queue_images), adding
        )
        self._inference = InferenceServicer(repository, control, metrics, self.gate, peers)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._inference, adding)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, adding)
        if settings.reflection:
            names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names), adding
            )
        self._new_server: Callable[[], grpc.aio.Server] = lambda: grpc.aio.server(
            handlers=[routes],
            options=[
                *build_channel_options(settings, max_connections),
                # A second server on the port must fail loudly, not take half of the calls. For
                # workers their supervisor has seen to that.
                ("grpc.so_reuseport", int(self._shares_port)),
            ],
        )
        self._server = self._new_server()
        self._restarting: asyncio.Task[None] | None = None
        self._abandoned: list[grpc.aio.Server] = []

    async def start(self, address: str) -> str:
        """Listens and returns where; health says NOT_SERVING until `serve`.

        Args:
            address: HOST:PORT; port 0 takes a free one.

        Raises:
            OSError: the address cannot be had.
        """
        await self._set(("", *_SERVICES), serving=False)
        address = await self._listen(address)
        self._restarting = asyncio.create_task(self._restart(address))
        return address

    async def _listen(self, address: str) -> str:
        host, port = split_address(address)
        try:
            if not self._shares_port:
                _check_bindable(host, port)
            if self._credentials is None:
                port = self._server.add_insecure_port(join_address(host, port))
            else:
                port = self._server.add_secure_port(join_address(host, port), self._credentials)
        except (OSError, RuntimeError) as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self._server.start()
        self._running_calls.start(port)
        return join_address(host, port)

    async def _restart(self, address: str) -> None:
        """Listens again whenever gRPC has stopped by itself; calls under way go on.

        Its loop ends at the first request whose path is not UTF-8, and with it the listener, until
        the process ends (grpcio 1.84 and 1.85 at least).
        """
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            if _is_running(self._server):
                continue
            _log.error("gRPC has stopped by itself; it is started again")
            self._abandoned.append(self._server)  # its calls have tasks of their own
            if len(self._abandoned) > _MOST_ABANDONED:
                await _stop_abandoned(self._abandoned.pop(0))
            self._server = self._new_server()
            while True:
                try:
                    await self._listen(address)
                    break
                except OSError as error:
                    _log.error("gRPC cannot be started again yet", why=str(error))
                    await asyncio.sleep(_RETRY_S)
                    self._server = self._new_server()

    async def serve(self) -> None:
        """Says what is ready, from now on: each model, and the server as a whole."""
        await self._health_reporter.start()

    async def _set_serving(self, name: str, *, serving: bool) -> None:
        if name:
            await self._set((name,), serving=serving)
            return
        self._inference.ready = serving
        await self._set(("", *_SERVICES), serving=serving)

    async def leave(self) -> None:
        """Says NOT_SERVING everywhere, for good; calls are still answered."""
        self._health_reporter.stop()
        self._inference.ready = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHER_TIMEOUT_S):
                await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, waits for those inside, and cancels what is left after the grace.

        gRPC drops a call that arrives while its server stops. So connections stay open, and new
        calls are answered UNAVAILABLE with a delay, until the accepted calls are done and callers
        have been quiet for a moment.
        """
        until_s = time.monotonic() + grace_s
        self._health_reporter.stop()
        self._routes.refuse(Draining(_RETRY_DELAY_S))
        self._health.dismiss()
        self._inference.dismiss()
        if grace_s > 0:
            await self._running_calls.wait_idle(grace_s)
            for _ in range(_MOST_PAUSES):
                pause_s = min(self._routes.latest_s + _QUIET_S, until_s) - time.monotonic()
                if pause_s <= 0:
                    break
                await asyncio.sleep(pause_s)
        if self._restarting is not None:
            self._restarting.cancel()
        left_s = max(0.0, until_s - time.monotonic())
        await asyncio.gather(self._server.stop(left_s), *map(_stop_abandoned, self._abandoned))
        self._running_calls.stop()

    async def _set(self, names: tuple[str, ...], *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in names:
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


def _make_guard(settings: ServeSettings, metrics: Metrics) -> Guard:
    def count(good: bool) -> None:
        metrics.reloads.labels("api_keys", "ok" if good else "failed").inc()

    ring = None
    if settings.api_keys is not None:
        ring = KeyRing(settings.api_keys, count, workers=settings.processes)
    return Guard(metrics, ring, settings.max_concurrent_calls, settings.calls_per_caller)


def _is_running(server: grpc.aio.Server) -> bool:
    """Tells whether gRPC serves; what it offers to wait for does not happen in this case."""
    return bool(getattr(server, "_server").is_running())  # noqa: B009 - the type has no such name


async def _stop_abandoned(server: grpc.aio.Server) -> None:
    """Ends the calls of a server that has stopped by itself; its end is never announced."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WATCHER_TIMEOUT_S):
            await server.stop(None)


def _check_bindable(host: str, port: int) -> None:
    """Binds and releases an address: gRPC does not say why it cannot, and logs lines of its own."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)


class _Health(health.aio.HealthServicer):  # type: ignore[misc] # the package has no types
    """The standard health service, whose watchers can be sent away.

    A watch never ends by itself: one client-side health check would hold the drain up for the
    whole of its grace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()
        self._dismissed = False

    async def List(  # noqa: N802 - named by the schema
        self,
        request: health_pb2.HealthListRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthListRequest, health_pb2.HealthListResponse
        ],
    ) -> None:
        """Refuses: health wants no API key, and this would name every model to everybody."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for one service by its name")

    async def Watch(  # noqa: N802 - named by the schema
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> None:
        """Sends every change of a status, until dismissed.

        Raises:
            Draining: dismissed.
        """
        if self._dismissed:
            raise Draining(1.0)
        watch = asyncio.create_task(super().Watch(request, context))
        self._watches.add(watch)
        try:
            await asyncio.wait({watch})
        finally:
            watch.cancel()
            self._watches.discard(watch)
        if watch.cancelled():
            raise Draining(1.0)
        await watch

    def dismiss(self) -> None:
        """Ends every watch, now and to come."""
        self._dismissed = True
        for watch in self._watches:
            watch.cancel()
