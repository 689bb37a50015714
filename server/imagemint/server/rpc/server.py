"""The gRPC server: services, health, reflection and limits."""

from __future__ import annotations  # the type of the tracing is imported for type checkers only

import asyncio
import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from imagemint.engine.errors import Draining
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.access.api_keys import KeyRing
from imagemint.server.access.caller import Guard
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.peers import Peers
from imagemint.server.repository import ModelRepository
from imagemint.server.repository.model_control import ModelControl
from imagemint.server.rpc.channel_options import (
    build_channel_options,
    compute_connection_limit,
    make_server_credentials,
)
from imagemint.server.rpc.health import HealthReporter
from imagemint.server.rpc.interceptor import CallInterceptor
from imagemint.server.rpc.open_inference.service import InferenceServicer
from imagemint.server.rpc.running_calls import RunningCalls
from imagemint.server.rpc.submission import Gate
from imagemint.server.rpc.v1.interpolation import PathServicer
from imagemint.server.rpc.v1.models import ModelServicer, make_limits
from imagemint.server.rpc.v1.translation import TranslationServicer
from imagemint.server.settings import ServeSettings, join_address, split_address
from imagemint.server.telemetry.metrics import Metrics
from imagemint.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    translation_service_pb2,
    translation_service_pb2_grpc,
)

if TYPE_CHECKING:  # OpenTelemetry is imported only when something is traced
    from imagemint.server.telemetry.tracing import Tracing

_log = structlog.stdlib.get_logger(__name__)

# This service answers without any model, so it is SERVING as long as the server accepts calls. Our
# clients watch it: with the status of the whole server, they could not ask a server without a ready
# model for the reason.
_MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_SERVICES_WITH_MODELS = (
    generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    translation_service_pb2.DESCRIPTOR.services_by_name["TranslationService"].full_name,
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
_SERVICES = (*_SERVICES_WITH_MODELS, _MODEL_SERVICE)
# A draining server asks refused callers to wait for this time.
_RETRY_DELAY_S = 1.0
# After this time, clients that watch health know that the server is shutting down. After this time
# without a call, the other callers know it, too.
_QUIET_S = 0.1
_MOST_PAUSES = 10
# Longer than it takes to notify a watcher of the health service, unless the watcher does not read.
_WATCHER_TIMEOUT_S = 1.0
_CHECK_INTERVAL_S = 0.05
_RETRY_S = 1.0


class Services(NamedTuple):
    """The services, which answer gRPC and HTTP calls."""

    interceptor: CallInterceptor
    running_calls: RunningCalls
    generation: PathServicer
    models: ModelServicer
    translation: TranslationServicer


class RpcServer:
    """The gRPC side of the server. It runs on the current event loop.

    The health service has the names '' for the server, the full name of each service, and
    ``model/<name>`` and ``model/<name>/<version>`` for each model. ModelService is SERVING while
    the server accepts calls, and the other services while the server as a whole is.

    Args:
        settings: addresses and limits.
        repository: the models.
        metrics: the server's metrics.
        encoders: threads that encode pictures.
        tracing: creates spans; None for no tracing.
        control: loads and unloads the models.
        peers: the workers of the server, including this one. Default: only this one.

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
        self.max_connections = max_connections = compute_connection_limit(settings)
        budget = Budget(settings.max_bytes_in_flight)
        metrics.watch(metrics.bytes_in_flight, (), lambda: budget.held_bytes)
        metrics.watch(metrics.serving, (), lambda: self.is_ready)
        self._running_calls = RunningCalls(
            self._guard,
            budget,
            metrics,
            stall_timeout_s=settings.stall_timeout_s,
            max_connections=max_connections,
        )
        self._credentials = make_server_credentials(settings, metrics)
        self._health_reporter = HealthReporter(repository, self._set_serving)
        self._interceptor = CallInterceptor(
            metrics,
            self._guard,
            self._running_calls,
            services=_SERVICES,
            access_log=settings.access_log,
            tracing=tracing,
        )
        self.services = Services(
            self._interceptor,
            self._running_calls,
            PathServicer(repository, metrics, self.gate, encoders),
            ModelServicer(repository, make_limits(settings)),
            TranslationServicer(settings, repository, metrics, self.gate, encoders),
        )
        self._inference = InferenceServicer(repository, control, metrics, self.gate, peers)
        self._options = [
            *build_channel_options(settings, max_connections),
            # A second server on the port must fail, instead of taking half of the calls. With
            # several workers, the supervisor checks that.
            ("grpc.so_reuseport", int(self._shares_port)),
        ]
        self._has_reflection = settings.reflection
        self._server = self._create_server()
        self._names: set[str] = set()
        self._restarting: asyncio.Task[None] | None = None
        self._abandoned: list[grpc.aio.Server] = []

    def _create_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._interceptor], options=self._options)
        services = self.services
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            services.generation, server
        )
        translation_service_pb2_grpc.add_TranslationServiceServicer_to_server(
            services.translation, server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(services.models, server)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._inference, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._has_reflection:
            reflection.enable_server_reflection(
                (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
            )
        return server

    async def start(self, address: str) -> str:
        """Starts to listen and returns the address.

        Until `serve`, health is NOT_SERVING, except that of ModelService.

        Args:
            address: HOST:PORT; port 0 chooses a free port.

        Raises:
            OSError: the server cannot listen on the address.
        """
        await self._set(("", *_SERVICES_WITH_MODELS), serving=False)
        await self._set((_MODEL_SERVICE,), serving=True)
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
        self._running_calls.start(port, "grpc")
        return join_address(host, port)

    async def _restart(self, address: str) -> None:
        """Starts gRPC again whenever it has stopped by itself; running calls go on.

        In grpcio 1.84 and 1.85, the accept loop ends at the first request whose path is not UTF-8,
        and the listener stays closed until the process ends.
        """
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            if _is_running(self._server):
                continue
            _log.error("gRPC stopped unexpectedly and is started again")
            # Its calls go on in their own tasks. Stopping it would end the process: gRPC crashes.
            self._abandoned.append(self._server)
            self._server = self._create_server()
            while True:
                try:
                    await self._listen(address)
                    break
                except OSError as error:
                    _log.error("gRPC cannot be started again yet", why=str(error))
                    await asyncio.sleep(_RETRY_S)
                    self._server = self._create_server()

    async def serve(self) -> None:
        """Starts to report health: of each model, and of the server as a whole."""
        await self._health_reporter.start()

    @property
    def is_ready(self) -> bool:
        """Whether the server as a whole is SERVING."""
        return self._inference.ready

    async def _set_serving(self, name: str, *, serving: bool) -> None:
        if name:
            await self._set((name,), serving=serving)
            return
        self._inference.ready = serving
        await self._set(("", *_SERVICES_WITH_MODELS), serving=serving)

    async def leave(self) -> None:
        """Sets every status but that of ModelService to NOT_SERVING; calls are still answered."""
        self._health_reporter.stop()
        self._inference.ready = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHER_TIMEOUT_S):
                await self._set(tuple(self._names - {_MODEL_SERVICE}), serving=False)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, waits for running calls, and cancels the rest after the grace period.

        Clients that watch ModelService, as ours do, learn of it a moment before, and call another
        server. gRPC drops a call that arrives while its server stops. Therefore connections stay
        open at first. New calls get UNAVAILABLE with a retry delay until the accepted calls are
        finished and no new call has come for a moment.
        """
        self._health_reporter.stop()
        if grace_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCHER_TIMEOUT_S):
                    await self._health.enter_graceful_shutdown()
            await asyncio.sleep(_QUIET_S)
        until_s = time.monotonic() + grace_s
        self._interceptor.refuse(Draining(_RETRY_DELAY_S))
        self._health.dismiss()
        self._inference.dismiss()
        self.services.translation.dismiss()
        if grace_s > 0:
            await self._running_calls.wait_idle(grace_s)
            for _ in range(_MOST_PAUSES):
                pause_s = min(self._interceptor.latest_s + _QUIET_S, until_s) - time.monotonic()
                if pause_s <= 0:
                    break
                await asyncio.sleep(pause_s)
        if self._restarting is not None:
            self._restarting.cancel()
        left_s = max(0.0, until_s - time.monotonic())
        await self._server.stop(left_s)
        self._running_calls.stop()

    async def _set(self, names: tuple[str, ...], *, serving: bool) -> None:
        self._names.update(names)
        status = health_pb2.HealthCheckResponse
        for name in names:
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


def _make_guard(settings: ServeSettings, metrics: Metrics) -> Guard:
    def count(succeeded: bool) -> None:
        metrics.reloads.labels("api_keys", "ok" if succeeded else "failed").inc()

    ring = None
    if settings.api_keys is not None:
        ring = keys = KeyRing(settings.api_keys, count, workers=settings.processes)
        metrics.watch(metrics.file_refused, ("api_keys",), lambda: keys.is_refused)
    return Guard(metrics, ring, settings.max_concurrent_calls, settings.calls_per_caller)


def _is_running(server: grpc.aio.Server) -> bool:
    """Returns whether gRPC is running. Its `wait_for_termination` does not return in this case."""
    return bool(getattr(server, "_server").is_running())  # noqa: B009 - a private attribute


def _check_bindable(host: str, port: int) -> None:
    """Binds and releases an address. gRPC reports no reason and logs its own lines."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)


class _Health(health.aio.HealthServicer):  # type: ignore[misc] # the package has no types
    """The standard health service, with an end to watches.

    A watch never ends by itself: one client-side health check would delay the drain for the whole
    grace period.
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
        """Refuses: health checks need no API key, and the list would show every model."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check with the name of one service")

    async def Watch(  # noqa: N802 - named by the schema
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> None:
        """Sends every change of a status until `dismiss`.

        Raises:
            Draining: the server shuts down.
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
        """Ends all current and future watches."""
        self._dismissed = True
        for watch in self._watches:
            watch.cancel()
