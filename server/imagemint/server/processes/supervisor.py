"""The supervisor: starts and restarts the workers, exports their metrics, and stops them together.

It imports neither gRPC nor ONNX Runtime, and answers no calls itself.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from imagemint.server.processes.messages import Ask, Drain, Reload, Reply, ServedElsewhere
from imagemint.server.processes.ports import reserve
from imagemint.server.processes.questions import Questions
from imagemint.server.processes.supervisor_metrics import WorkersMetrics
from imagemint.server.processes.worker_keeper import Keeper, KeeperContext
from imagemint.server.processes.worker_metrics import Figures, parse_figures
from imagemint.server.service_manager import ServiceManager
from imagemint.server.settings import ServeSettings, find_absent_models
from imagemint.server.telemetry.gpu import watch_devices
from imagemint.server.telemetry.logs import close_logs, get_original_stderr
from imagemint.server.telemetry.metrics_endpoint import expose

_log = structlog.stdlib.get_logger(__name__)

# Without -P, a module in the current directory could shadow ours.
WORKER = (sys.executable, "-P", "-m", "imagemint.server.processes.worker")
# A scrape does not wait longer for a busy worker, and uses its previous metrics.
_MEASURE_S = 1.0
_TICK_S = 1.0


class Supervisor:
    """`imagemint serve` with several processes.

    Args:
        settings: the settings of the whole server.
        worker: the command of a worker; the number of a file descriptor is appended to it.
    """

    def __init__(self, settings: ServeSettings, worker: Sequence[str] = WORKER) -> None:
        self._settings = settings
        self._worker = worker
        self._leaving = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._keepers: list[Keeper] = []
        self._questions = Questions()
        self._manager = ServiceManager()

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, then drains. A second signal kills all workers.

        Returns:
            The exit status: 0 if every worker exited with status 0.

        Raises:
            OSError: an address is not available.
            StartFailed: a worker cannot serve.
        """
        settings = self._settings
        stopping = asyncio.Event()
        async with contextlib.AsyncExitStack() as opened:
            port, address = reserve(settings.grpc_address)
            opened.callback(port.close)
            http_address = None
            if settings.http_address is not None:
                http_port, http_address = reserve(settings.http_address)
                opened.callback(http_port.close)
            # A file in memory cannot meet a full or read-only disk, and ends with the last process.
            self._shared_log = os.memfd_create("imagemint-shared-log")
            opened.callback(os.close, self._shared_log)
            self._metrics = WorkersMetrics(
                settings.processes, self._make_measurer(), self._list_pids
            )
            if settings.device != "cpu":
                watch_devices(self._metrics.registry)
            metrics_address, stop_metrics = expose(settings.metrics_address, self._metrics.registry)
            # On a thread, because a scrape under way waits for this event loop.
            opened.push_async_callback(asyncio.to_thread, stop_metrics)
            self._handle_signals(stopping)
            await opened.enter_async_context(self._manager.keep_alive())
            self._keepers += self._create_keepers(address, http_address)
            tasks = [asyncio.create_task(keeper.keep()) for keeper in self._keepers]
            opened.push_async_callback(_cancel_all, tasks)
            opened.callback(asyncio.create_task(self._tick()).cancel)
            await _wait_for_any(tasks, self._all_ready, stopping)
            if not stopping.is_set():
                if absent := find_absent_models(settings, self._keepers[0].models):
                    _log.warning("settings name models that are not in the repository", **absent)
                _log.info(
                    "ready",
                    grpc_address=address,
                    metrics_address=metrics_address,
                    **describe_http(settings, http_address),
                    processes=settings.processes,
                    models=self._keepers[0].models,
                )
                self._manager.report_ready()
                await _wait_for_any(tasks, stopping)
            return await self._drain(tasks)

    def _handle_signals(self, stopping: asyncio.Event) -> None:
        def stop(number: signal.Signals) -> None:
            if stopping.is_set():
                for keeper in self._keepers:
                    keeper.kill()
                close_logs()
                os._exit(128 + number)
            stopping.set()
            self._manager.report_draining(self._settings.compute_stop_limit_s())

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Asks every worker to scan for changes; each worker logs what it does."""
        _log.info("reload", workers=len(self._keepers))
        for keeper in self._keepers:
            keeper.send(Reload())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for keeper in self._keepers:
                keeper.tick()

    def _create_keepers(self, address: str, http_address: str | None) -> list[Keeper]:
        context = KeeperContext(
            command=self._worker,
            settings=make_worker_settings(self._settings, address, http_address),
            shared_log=self._shared_log,
            stderr=get_original_stderr(),
            leaving=self._leaving,
            remembered=lambda: self._questions.remembered,
            list_elsewhere=self._list_elsewhere,
            on_change=self._on_change,
            on_message=self._on_message,
            on_figures=self._on_figures,
            on_death=self._on_death,
        )
        return [Keeper(number, context) for number in range(self._settings.processes)]

    def _on_change(self) -> None:
        ready = sum(keeper.ready for keeper in self._keepers)
        self._metrics.ready.set(ready)
        if ready == len(self._keepers):
            self._all_ready.set()
            for keeper in self._keepers:
                keeper.patient = True
        for keeper in self._keepers:
            keeper.send(ServedElsewhere(self._list_elsewhere(keeper)))

    def _list_elsewhere(self, keeper: Keeper) -> dict[str, list[int]]:
        """Returns the versions that the other workers serve, by model."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for other in self._keepers:
            if other is not keeper and other.ready:
                for name, versions in other.models.items():
                    found[name].update(versions)
        return {name: sorted(versions) for name, versions in found.items() if versions}

    def _on_message(self, keeper: Keeper, message: Ask | Reply) -> None:
        if isinstance(message, Ask):
            self._questions.pass_on(self._keepers, keeper, message)
        else:
            self._questions.record_reply(message)

    def _on_figures(self, keeper: Keeper, figures: Figures) -> None:
        self._metrics.totals.update(keeper.number, figures)

    def _on_death(self, keeper: Keeper) -> None:
        self._questions.record_death(keeper.number)
        self._metrics.totals.retire(keeper.number)
        self._on_change()
        if not self._leaving.is_set():
            self._metrics.restarts.labels(str(keeper.number)).inc()

    def _list_pids(self) -> dict[int, int]:
        return {keeper.number: keeper.pid for keeper in self._keepers if keeper.pid}

    def _make_measurer(self) -> Callable[[], None]:
        """Returns a function that updates the totals from the workers, on the scrape's thread."""
        loop = asyncio.get_running_loop()

        async def update_totals() -> None:
            pids = self._list_pids()
            replies = await self._questions.ask(
                self._keepers, "measure", None, timeout_s=_MEASURE_S
            )
            for reply in replies:
                # If the worker died since, the total already contains its metrics.
                if reply.value and self._list_pids().get(reply.worker) == pids.get(reply.worker):
                    self._metrics.totals.update(reply.worker, parse_figures(reply.value))

        def measure() -> None:
            try:
                asyncio.run_coroutine_threadsafe(update_totals(), loop).result(2 * _MEASURE_S)
            except Exception:  # noqa: BLE001 - the previous metrics are exported again
                _log.exception("cannot read the metrics of the workers")

        return measure

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> int:
        settings = self._settings
        _log.info("draining", delay_s=settings.drain_delay_s, grace_s=settings.drain_grace_s)
        self._leaving.set()
        for keeper in self._keepers:
            keeper.send(Drain())
        _, unfinished = await asyncio.wait(tasks, timeout=settings.compute_stop_limit_s())
        failed = [keeper.number for keeper in self._keepers if keeper.status or keeper.pid]
        if failed:
            _log.error("workers did not exit cleanly", workers=failed, hang=len(unfinished))
            return 1
        _log.info("stopped")
        return 0


def make_worker_settings(
    settings: ServeSettings, address: str, http_address: str | None = None
) -> ServeSettings:
    """Returns the settings of each worker, with its share of queue and memory.

    The queue of each worker holds at least one request of the maximum size.

    Args:
        settings: the settings of the whole server.
        address: HOST:PORT on which the workers listen.
        http_address: HOST:PORT of their HTTP interface; None for none.
    """
    share = -(-settings.max_queue_images // settings.processes)
    share = max(share, settings.max_images_per_request)
    shares = {
        "max_queue_images": share,
        "max_bytes_in_flight": settings.max_bytes_in_flight // settings.processes,
    }
    addresses = {"grpc_address": address, "http_address": http_address}
    return settings.model_copy(update={**addresses, **shares})


def describe_http(settings: ServeSettings, address: str | None) -> dict[str, str]:
    """Returns the field of the log line `ready` with the address of the page, if there is one."""
    if address is None:
        return {}
    scheme = "http" if settings.tls_certificate is None else "https"
    return {"http_url": f"{scheme}://{address}/"}


async def _wait_for_any(tasks: list[asyncio.Task[None]], *events: asyncio.Event) -> None:
    """Returns when one of the events is set; raises the error of a keeper that fails before."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait([*tasks, *waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in done.intersection(tasks):
            task.result()
    finally:
        for waiter in waiting:
            waiter.cancel()


async def _cancel_all(tasks: list[asyncio.Task[None]]) -> None:
    """Kills the remaining workers."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
