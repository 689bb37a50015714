"""Applies `model_control`: load once, poll, watch, or on request."""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from imagemint.engine.errors import LoadFailed, ModelControlRefused, ModelNotFound
from imagemint.server.peers import Peers, Refused
from imagemint.server.repository import ModelRepository
from imagemint.server.repository.loading_threads import DaemonPool
from imagemint.server.repository.repository import LONG_SCAN_S

_log = logging.getLogger(__name__)

_TOPIC = "model control"
# Maximum age of a listing by another worker, as a share of the time between two scans.
_SHARED_SHARE = 0.9
_START_AGE_S = 5.0
_PATIENCE_S = 600.0  # longer than the largest model needs to load

Mode = Literal["none", "poll", "watch", "explicit"]


class ModelControl:
    """Keeps the served models up to date, off the event loop, one change at a time.

    Args:
        repository: the models.
        mode: none, poll, watch or explicit; see the setting `model_control`.
        poll_interval_s: time between two scans, in the modes poll and watch.
        peers: the workers; each of them executes a request to any of them. Default: one worker.
    """

    def __init__(
        self,
        repository: ModelRepository,
        mode: Mode,
        *,
        poll_interval_s: float,
        peers: Peers | None = None,
    ) -> None:
        self._repository = repository
        self._mode = mode
        self._poll_interval_s = poll_interval_s
        self._thread = DaemonPool(1, "models")
        self._first = DaemonPool(1, "first load")
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._problem = ""
        self._peers = peers or Peers()
        # One worker lists a repository in an object store for all.
        self._max_age_s = _SHARED_SHARE * poll_interval_s if self._peers.several else 0.0
        self._peers.on(_TOPIC, self._execute)

    async def start(self, patience_s: float = math.inf) -> None:
        """Loads the wanted models and starts the background tasks of the mode.

        Args:
            patience_s: time after which the method returns although models are still loading, once
                one serves; they continue in the background.
        """
        max_age_s = min(self._max_age_s, _START_AGE_S) if self._scans else 0.0
        load = partial(self._repository.load, max_age_s)
        loading = asyncio.wrap_future(self._first.submit(load))
        wait_s = None if math.isinf(patience_s) else patience_s
        done, _ = await asyncio.wait({loading}, timeout=wait_s)
        if not done:
            serves = "others serve" if self._repository.is_serving else "none serves yet"
            _log.warning("some models are still loading after %g s; %s", patience_s, serves)
        self._start_tasks()
        await self._wait_for_first(loading)
        if loading.done():
            loading.result()
        else:
            loading.add_done_callback(_report)
            self._repository.end_wait()

    def _start_tasks(self) -> None:
        if self._scans:
            self._tasks.append(asyncio.create_task(self._keep_up()))
        else:
            self._tasks.append(asyncio.create_task(self._keep_trying()))
        if self._mode == "watch":
            self._tasks.append(asyncio.create_task(self._watch_files()))

    async def _wait_for_first(self, loading: "asyncio.Future[None]") -> None:
        """Returns when a version serves, or all were tried."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def note() -> None:  # on any thread
            loop.call_soon_threadsafe(changed.set)

        unwatch = self._repository.watch(note)
        loading.add_done_callback(lambda _: changed.set())
        try:
            while not self._repository.is_serving and not loading.done():
                await changed.wait()
                changed.clear()
        finally:
            unwatch()

    async def stop(self) -> None:
        """Stops the background tasks; abandons loads under way once the runtime returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._first.close(0.0)
        self._thread.close(0.0)

    # --- on request -----------------------------------------------------------------------------

    @property
    def is_offered(self) -> bool:
        """Whether callers may load and unload models."""
        return self._mode == "explicit"

    def require(self) -> None:
        """Checks that callers may load and unload models.

        Raises:
            ModelControlRefused: `model_control` is not explicit.
        """
        if self._mode != "explicit":
            raise ModelControlRefused(
                "explicit model load / unload is not allowed:"
                f" model_control is {self._mode}, not explicit"
            )

    async def load(self, name: str, *, accept_changed: bool = False) -> None:
        """Loads a model or brings it up to date, in every worker; returns when that is done.

        Args:
            name: the model.
            accept_changed: whether to accept a digest that differs from the one served under the
                same version number before.

        Raises:
            ModelControlRefused: see `require`.
            ModelNotFound: the model is not in the repository.
            LoadFailed: a wanted version was refused; versions that served before still serve.
        """
        await self._send_command("load", name, accept_changed)

    async def unload(self, name: str) -> None:
        """Takes a model out of service, in every worker; returns when no new call reaches it.

        Raises:
            ModelControlRefused: see `require`.
            ModelNotFound: there is no such model.
        """
        await self._send_command("unload", name)

    async def _send_command(self, action: str, name: str, accept_changed: bool = False) -> None:
        self.require()
        answers = await self._peers.ask(
            _TOPIC,
            (action, name, accept_changed),
            remember_as=f"model {name}",  # workers that start later repeat the last command
            timeout_s=_PATIENCE_S,
        )
        done = any(answer.value and answer.value[0] == "done" for answer in answers)
        for answer in answers:
            match answer.value:
                case ("not found", known):
                    # A worker that replaced another one may lack a model that the others unload.
                    if action == "load" or not done:
                        raise ModelNotFound(name, known)
                case ("failed", why):
                    raise LoadFailed(name, why)
                case None:
                    raise LoadFailed(name, f"worker {answer.worker}: see its log")

    async def _execute(self, command: tuple[str, str, bool]) -> tuple[str, Any]:
        """Executes a command in this worker; returns the outcome, because errors are no JSON.

        Raises:
            Refused: a load brought no version into service. Workers that start later must not
                repeat it: they could find other files and serve what the others do not.
        """
        action, name, accept_changed = command
        try:
            if action == "load":
                load = partial(self._repository.load_model, name, accept_changed=accept_changed)
                await self._run_in_turn(load)
            else:
                await self._run_in_turn(partial(self._repository.unload_model, name))
        except ModelNotFound as error:
            if action == "load":
                raise Refused(("not found", error.known)) from error
            return "not found", error.known
        except LoadFailed as error:
            model = self._repository.models.get(name)
            if model is None or not any(version.served for version in model.versions.values()):
                raise Refused(("failed", error.why)) from error
            return "failed", error.why
        except OSError as error:
            _log.error("%s %s failed: %s", action, name, error)
            why = "the repository cannot be read; see the log"
            raise Refused(("failed", why)) from error
        return "done", None

    # --- from the repository --------------------------------------------------------------------

    def look(self) -> bool:
        """Requests a scan now; returns whether this mode scans the repository at all."""
        self._changed.set()
        return self._scans

    @property
    def _scans(self) -> bool:
        return self._mode in ("poll", "watch")

    async def refresh(self) -> None:
        """Updates the served models from the repository; returns when that is done.

        Raises:
            OSError: the repository cannot be read. Nothing changes.
        """
        await self._run_in_turn(self._repository.refresh)

    async def _keep_up(self) -> None:
        while True:
            max_age_s = 0.0
            try:
                await asyncio.wait_for(self._changed.wait(), self._poll_interval_s)
            except TimeoutError:
                max_age_s = self._max_age_s
            self._changed.clear()
            await self._try(partial(self._repository.refresh, wait=False, max_age_s=max_age_s))

    async def _keep_trying(self) -> None:
        """Retries what failed for a transient cause, in the modes without scans."""
        while True:
            await asyncio.sleep(self._poll_interval_s)
            if self._repository.is_outdated:
                await self._try(partial(self._repository.refresh, wait=False))
            self._repository.retry()

    async def _try(self, change: Callable[[], None]) -> None:
        """Makes a change, and reports its failure."""
        changing = asyncio.ensure_future(self._run_in_turn(change))
        try:
            # A dead mount neither answers nor fails, and nothing can interrupt the scan.
            _, pending = await asyncio.wait({changing}, timeout=LONG_SCAN_S)
            if pending:
                self._log_problem(f"the repository has not answered for {LONG_SCAN_S:g} s")
            await changing
        except asyncio.CancelledError:
            changing.cancel()
            raise
        except OSError as error:
            self._log_problem(f"the repository cannot be read: {error}")
        except Exception:  # noqa: BLE001 - the next scan may succeed
            _log.exception("the repository was not brought up to date")
        else:
            if self._problem:
                _log.info("the repository can be read again")
            self._problem = ""

    def _log_problem(self, problem: str) -> None:
        """Logs a lasting problem once, not at every scan."""
        if problem != self._problem:
            _log.error("%s; the loaded models still serve", problem)
        self._problem = problem

    async def _watch_files(self) -> None:
        from watchfiles import awatch  # noqa: PLC0415 - only the mode watch needs it

        try:
            async for _ in awatch(
                self._repository.directory, watch_filter=None, ignore_permission_denied=True
            ):
                self._changed.set()
        except (OSError, RuntimeError) as error:
            _log.warning("no file system events (%s); the repository is only polled", error)

    async def _run_in_turn(self, change: Callable[[], None]) -> None:
        await asyncio.wrap_future(self._thread.submit(change))


def _report(loading: "asyncio.Future[None]") -> None:
    """Logs the failure of a load that continued in the background."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.error("models were not loaded", exc_info=error)
