"""The composition root: builds, starts and stops all parts of one server."""

from __future__ import annotations  # the type of the tracing is imported for type checkers only

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import generate_latest

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.shipped import find_shipped_models
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.trial.trials import TrialOptions, Trials
from imagemint.server.batching import Batcher
from imagemint.server.cores import count_usable_cores
from imagemint.server.event_loop import settle
from imagemint.server.peers import Peers
from imagemint.server.repository import (
    LocalDirectory,
    ModelRepository,
    Policies,
    ServedDigests,
    SharedLog,
    SharedTrials,
    Source,
    TrialRunner,
)
from imagemint.server.repository.model_control import ModelControl
from imagemint.server.repository_addresses import is_address
from imagemint.server.rpc.server import RpcServer
from imagemint.server.service_manager import ServiceManager
from imagemint.server.settings import ServeSettings, find_absent_models
from imagemint.server.telemetry.gpu import watch_devices
from imagemint.server.telemetry.logs import close_logs
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.metrics_endpoint import expose

if TYPE_CHECKING:  # see _start_http, _open_keys and _open_tracing
    from imagemint.server.http.server import HttpServer
    from imagemint.server.repository.key_file import KeyFile
    from imagemint.server.telemetry.tracing import Tracing

_log = structlog.stdlib.get_logger(__name__)

_GPU_INSTANCES = 2
# More threads per batch give diminishing returns and were not measured.
_MOST_ALONE_THREADS = 4
# The event loop gets a CPU core as soon as it needs one; see docs/notes/serving-performance.md.
_NICENESS = 5
_MAX_BUNDLE_BYTES = 2**31  # the limit of protobuf, and therefore of a file without external data
# Streams are asked to end at this share of the grace period, so that their last chunk is still sent
# and the client can tell a drain from a failure.
_EXPIRING_SHARE = 0.8
# After the grace period no caller waits for a response, and a hanging device must not keep the
# process alive.
_CLOSING_S = 5.0


class App:
    """One server process: gRPC, HTTP, metrics and models.

    Args:
        settings: the settings of this process.
        peers: the workers of the server, of which this is one. Default: this process is alone.
    """

    def __init__(self, settings: ServeSettings, peers: Peers | None = None) -> None:
        self._settings = settings
        self._peers = peers or Peers()
        self.metrics = Metrics(shared=self._peers.several)
        if settings.device != "cpu" and not self._peers.several:  # the supervisor exports them
            watch_devices(self.metrics.registry)
        self._cores = max(1, count_usable_cores() // settings.processes)
        self._encoders = ThreadPoolExecutor(self._cores, thread_name_prefix="encode")
        log = None if self._peers.shared_log is None else SharedLog(self._peers.shared_log)
        self.repository = ModelRepository(
            self._open_source(),
            self._open_backend,
            self._open_batcher,
            self.metrics,
            max_bundle_bytes=_MAX_BUNDLE_BYTES,
            max_images=settings.max_images_per_request,
            max_response_bytes=settings.max_response_bytes,
            policies=Policies.parse(
                settings.version_policy, settings.version_policies, settings.default_versions
            ),
            wanted=_list_wanted(settings),
            unload_grace_s=settings.drain_grace_s,
            served_digests=ServedDigests(log),
            trials=self._open_trials(log),
            variant_of=self._choose_variant,
            keys=self._open_keys(),
            unload_when_empty=settings.unload_when_empty,
            served_elsewhere=lambda: self._peers.served_elsewhere,
        )
        self.control = ModelControl(
            self.repository,
            settings.model_control,
            poll_interval_s=settings.poll_interval_s,
            peers=self._peers,
        )
        self._opened = contextlib.AsyncExitStack()
        self._rpc: RpcServer | None = None
        self._http: HttpServer | None = None
        self.grpc_address = ""
        self.metrics_address = ""
        self.http_url = ""

    def _open_source(self) -> Source:
        settings = self._settings
        if settings.repository is not None and is_address(settings.repository):
            from imagemint.server.storage.mirror import open_mirror  # noqa: PLC0415 - needs the extra store

            return open_mirror(
                settings.repository,
                settings.repository_cache,
                self.metrics,
                max_bytes=_MAX_BUNDLE_BYTES,
                unload_when_empty=settings.unload_when_empty,
            )
        repository = settings.repository
        directory = find_shipped_models() if repository is None else Path(repository)
        if not directory.is_dir():
            raise NotADirectoryError(f"model repository {directory} is not a directory")
        return LocalDirectory(directory)

    def _open_trials(self, log: SharedLog | None) -> TrialRunner:
        trials = Trials(
            TrialOptions(
                timeout_s=self._settings.load_timeout_s,
                max_bytes=_MAX_BUNDLE_BYTES,
                max_image_memory_bytes=self._settings.max_image_memory_bytes,
                alone_threads=self._alone_threads,
            )
        )
        return trials if log is None else SharedTrials(trials, log)

    def _open_keys(self) -> KeyFile | None:
        if self._settings.require_signature is None:
            return None
        from imagemint.server.repository.key_file import KeyFile  # noqa: PLC0415 - needs the extra signing

        return KeyFile(self._settings.require_signature)

    @property
    def _alone_threads(self) -> int:
        return min(self._cores, _MOST_ALONE_THREADS) if self._settings.spread_alone else 1

    def _choose_variant(self, model: str) -> str:
        return self._settings.variants.get(model, self._settings.variant)

    def _open_backend(self, bundle: Bundle) -> Backend:
        settings = self._settings
        return OnnxBackend(
            bundle,
            device=settings.device,
            alone_threads=self._alone_threads,
            max_batch=settings.compute_batch_images(
                on_cpu=False
            ),  # for buckets, which only a GPU uses
            buckets=settings.batch_buckets,
            cuda_graphs=settings.cuda_graphs,
            variant=self._choose_variant(bundle.spec.name),
            max_image_memory_bytes=settings.max_image_memory_bytes,
        )

    def _open_batcher(self, bundle: Bundle, backend: Backend) -> Batcher:
        settings = self._settings
        on_cpu = backend.provider == "CPUExecutionProvider"
        return Batcher(
            bundle.spec,
            bundle.version,
            backend,
            self.metrics,
            # On a CPU one single-threaded pass per core beats one pass on all cores.
            instances=settings.instances or (self._cores if on_cpu else _GPU_INSTANCES),
            max_batch_images=settings.compute_batch_images(on_cpu=on_cpu),
            max_queue_images=settings.max_queue_images,
            batch_delay_s=settings.batch_delay_ms / 1e3,
            niceness=_NICENESS if on_cpu else 0,
            preferred_batch_images=settings.preferred_batch_images,
        )

    async def start(self) -> None:
        """Listens, loads the models and logs `ready`; on an error, closes what it opened.

        Each model serves as soon as it is ready. The method returns when all models were tried, or
        after `start_timeout_s` once one of them serves. After a cancellation, `stop` closes what is
        open.

        Raises:
            OSError: an address is not available.
        """
        try:
            await self._start()
        except Exception:
            await self._opened.aclose()
            raise
        if not self._peers.several:  # the supervisor logs it once for all
            if absent := find_absent_models(self._settings, self.served):
                _log.warning("settings name models that are not in the repository", **absent)
            _log.info(
                "ready",
                grpc_address=self.grpc_address,
                metrics_address=self.metrics_address,
                **({"http_url": self.http_url} if self.http_url else {}),
                models=self.served,
            )

    async def _start(self) -> None:
        settings, opened = self._settings, self._opened
        opened.callback(self._encoders.shutdown)
        opened.push_async_callback(self._release)
        tracing = self._open_tracing(opened)
        self._rpc = rpc = RpcServer(
            settings,
            self.repository,
            self.metrics,
            self._encoders,
            tracing,
            control=self.control,
            peers=self._peers,
        )
        opened.push_async_callback(rpc.stop, 0.0)
        opened.push_async_callback(self.control.stop)
        if self._peers.several:
            # A worker receives its share of the calls as soon as it listens, so it listens only
            # when its models are loaded or `start_timeout_s` is over.
            await self._load()
            await self._wait_for_model()
            self.grpc_address = await rpc.start(settings.grpc_address)
            await self._start_http(rpc)
            await rpc.serve()
        else:
            self.grpc_address = await rpc.start(settings.grpc_address)
            await self._start_http(rpc)
            self.metrics_address, stop = expose(settings.metrics_address, self.metrics.registry)
            opened.callback(stop)
            await rpc.serve()
            await self._load()

    async def _start_http(self, rpc: RpcServer) -> None:
        settings = self._settings
        if settings.http_address is None:
            return
        # Imported here because a server without HTTP starts faster, and takes less memory.
        from imagemint.server.http.application import Probes, make_application  # noqa: PLC0415 - see above
        from imagemint.server.http.server import HttpServer  # noqa: PLC0415 - see above

        registry = self.metrics.registry
        scrape = partial(generate_latest, registry) if settings.http_metrics else None
        application = make_application(
            settings,
            rpc.services,
            self.repository,
            self._encoders,
            Probes(lambda: rpc.is_ready, scrape),
        )
        self._http = http = HttpServer(
            settings,
            application,
            self.metrics,
            max_connections=rpc.max_connections,
            shares_port=self._peers.several,
        )
        await http.start(settings.http_address)
        self._opened.push_async_callback(http.stop)
        rpc.services.running_calls.start(http.port, "http")
        self.http_url = http.url

    async def serve_until(
        self, leave: asyncio.Event, ready: Callable[[], object] = lambda: None
    ) -> None:
        """Starts, serves until `leave` is set, and drains. `leave` also interrupts the start.

        Args:
            leave: set to stop the server, even while models are still loading.
            ready: called when the start is complete, unless `leave` was set before.

        Raises:
            OSError: an address is not available.
        """
        starting = asyncio.create_task(self.start())
        leaving = asyncio.create_task(leave.wait())
        try:
            await asyncio.wait({starting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                starting.result()
                ready()
                await leaving
        finally:
            starting.cancel()
            leaving.cancel()
            await asyncio.gather(starting, leaving, return_exceptions=True)
        await self.stop()

    @property
    def served(self) -> dict[str, list[int]]:
        """The versions that serve, by model."""
        return {
            name: [version.number for version in model.versions.values() if version.served]
            for name, model in self.repository.models.items()
        }

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.start_timeout_s
        await self.control.start(self._settings.start_timeout_s)
        # Repeats here what all workers were asked before. A slow load does not delay the start.
        self._catching_up = asyncio.create_task(self._peers.catch_up())
        self._opened.callback(self._catching_up.cancel)
        await asyncio.wait({self._catching_up}, timeout=max(1.0, until - loop.time()))

    async def _wait_for_model(self) -> None:
        """Waits until a model serves, if this worker replaces another one.

        The repository may have been lost since the other workers loaded their models. A worker
        without models would get its share of the calls, and answer that there is no such model.
        """
        if not self._peers.replaces:
            return
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def note() -> None:  # on any thread
            loop.call_soon_threadsafe(changed.set)

        unwatch = self.repository.watch(note)
        try:
            if not self.repository.ready:
                _log.error("worker has no model that serves, and takes no calls until it has one")
            while not self.repository.ready:
                await changed.wait()
                changed.clear()
        finally:
            unwatch()

    def _name_event(self, name: str) -> str:
        """Returns the log event of this process; the supervisor logs the plain name for all."""
        return f"worker {name}" if self._peers.several else name

    def _open_tracing(self, opened: contextlib.AsyncExitStack) -> Tracing | None:
        if self._settings.trace_endpoint is None:
            return None
        from imagemint.server.telemetry.tracing import Tracing  # noqa: PLC0415 - needs the extra trace

        tracing = Tracing(self._settings.trace_endpoint, self._settings.trace_sample_ratio)
        opened.push_async_callback(asyncio.to_thread, tracing.close, _CLOSING_S)
        return tracing

    @property
    def leaves_work(self) -> bool:
        """Whether a thread is still in native code, which nothing can interrupt."""
        return self.repository.is_busy

    async def _release(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.repository.close, _CLOSING_S)

    async def stop(self) -> None:
        """Drains: sets health, waits for load balancers, finishes the calls, closes the rest."""
        settings = self._settings
        _log.info(
            self._name_event("draining"),
            delay_s=settings.drain_delay_s,
            grace_s=settings.drain_grace_s,
        )
        if self._rpc is not None and self.grpc_address:  # otherwise no client can know this server
            await self._rpc.leave()
            await asyncio.sleep(settings.drain_delay_s)
            expiry = asyncio.get_running_loop().call_later(
                _EXPIRING_SHARE * settings.drain_grace_s, self._expire
            )
            # HTTP refuses new calls meanwhile, and closes when the calls of both are finished.
            await self._rpc.stop(settings.drain_grace_s)
            expiry.cancel()
        await self._opened.aclose()
        _log.info(self._name_event("stopped"))

    def reload(self) -> None:
        """Scans the repository for changes now, if `model_control` is poll or watch."""
        _log.info(
            self._name_event("reload"),
            models="scanned" if self.control.look() else "unchanged: see model_control",
            files="certificates and API keys are read again whenever they change",
        )

    def _expire(self) -> None:
        if self._rpc is not None:
            self._rpc.gate.expiring = True

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        manager = ServiceManager()

        def stop(number: signal.Signals) -> None:
            if stopping.is_set():
                close_logs()
                os._exit(128 + number)
            stopping.set()
            manager.report_draining(self._settings.compute_stop_limit_s())

        def report_ready() -> None:
            settle()
            manager.report_ready()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        async with manager.keep_alive():
            await self.serve_until(stopping, report_ready)


def _list_wanted(settings: ServeSettings) -> list[str] | None:
    """Returns the models to load at startup; None for all of the repository."""
    if settings.model_control == "explicit" or settings.load_models:
        return settings.load_models
    return None
