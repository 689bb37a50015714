"""Who decides what is loaded: the clock, the file system, or whoever asks by name."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from imagemint.engine.errors import LoadFailed, ModelControlRefused, ModelNotFound
from imagemint.server.processes.workers import Peers, Refused
from imagemint.server.repository import ModelRepository
from imagemint.server.repository.loading_threads import Lane

_log = logging.getLogger(__name__)

_TOPIC = "model control"
_PATIENCE_S = 600.0  # longer than the largest model takes to load

Mode = Literal["none", "poll", "watch", "explicit"]


class ModelControl:
    """Keeps a repository as it is meant to be, off the event loop, one change at a time.

    Args:
        repository: the models.
        mode: none, poll, watch or explicit, as the setting `model_control` explains them.
        poll_interval_s: time between two looks, for poll and watch.
        allowed: whether models may be loaded and unloaded by name, in the mode explicit.
        peers: the workers, all of which do what one is asked to; by default there is one.
    """

    def __init__(
        self,
        repository: ModelRepository,
        mode: Mode,
        *,
        poll_interval_s: float,
        allowed: bool,
        peers: Peers | None = None,
    ) -> None:
        self._repository = repository
        self._mode = mode
        self._poll_interval_s = poll_interval_s
        self._allowed = allowed
        self._thread = Lane(1, "models")
        self._first = Lane(1, "first load")
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._complaint = ""
        self._peers = peers or Peers()
        self._peers.on(_TOPIC, self._obey)

    async def start(self, patience_s: float = math.inf) -> None:
        """Loads what is wanted, and from then on keeps up with the repository, by mode.

        Args:
            patience_s: time after which this returns although something is still loading; that goes
                on meanwhile.
        """
        loading = asyncio.wrap_future(self._first.submit(self._repository.load))
        wait_s = None if math.isinf(patience_s) else patience_s
        done, _ = await asyncio.wait({loading}, timeout=wait_s)
        if done:
            loading.result()
        else:
            loading.add_done_callback(_report)
            _log.warning("some models are still loading after %g s; others serve", patience_s)
            self._repository.end_wait()
        if self._mode in ("poll", "watch"):
            self._tasks.append(asyncio.create_task(self._keep_up()))
        else:
            self._tasks.append(asyncio.create_task(self._keep_trying()))
        if self._mode == "watch":
            self._tasks.append(asyncio.create_task(self._watch_files()))

    async def stop(self) -> None:
        """Ends that; what is being loaded is given up as soon as the runtime returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._first.close(0.0)
        self._thread.close(0.0)

    # --- by name --------------------------------------------------------------------------------

    @property
    def is_offered(self) -> bool:
        """Whether models may be loaded and unloaded by name."""
        return self._mode == "explicit" and self._allowed

    def require(self) -> None:
        """The one place where explicit control is allowed or not.

        Raises:
            ModelControlRefused: the mode is another, or it is switched off.
        """
        if self._mode != "explicit":
            raise ModelControlRefused(
                "explicit model load / unload is not allowed:"
                f" model_control is {self._mode}, not explicit"
            )
        if not self._allowed:
            raise ModelControlRefused(
                "explicit model load / unload is not allowed: allow_model_control is off"
            )

    async def load(self, name: str, *, accept_changed: bool = False) -> None:
        """Loads a model, or brings it up to date, in every worker; returns when that is done.

        Args:
            name: which.
            accept_changed: serve a version although its bytes are not those that were served under
                its number before.

        Raises:
            ModelControlRefused: as `require`.
            ModelNotFound: it is not in the repository.
            LoadFailed: a version that should serve was refused; those that did serve still do.
        """
        await self._command("load", name, accept_changed)

    async def unload(self, name: str) -> None:
        """Takes a model out of service, in every worker; returns when no new call reaches it.

        Raises:
            ModelControlRefused: as `require`.
            ModelNotFound: no such model.
        """
        await self._command("unload", name)

    async def _command(self, action: str, name: str, accept_changed: bool = False) -> None:
        self.require()
        answers = await self._peers.ask(
            _TOPIC,
            (action, name, accept_changed),
            remember_as=f"model {name}",  # for workers that start later: the last word on it
            timeout_s=_PATIENCE_S,
        )
        for answer in answers:
            match answer.value:
                case ("not found", known):
                    raise ModelNotFound(name, known)
                case ("failed", why):
                    raise LoadFailed(name, why)
                case None:
                    raise LoadFailed(name, f"worker {answer.worker}: see its log")

    async def _obey(self, command: tuple[str, str, bool]) -> tuple[str, Any]:
        """Does here what any worker was asked to; returns what went wrong: errors do not travel.

        Raises:
            Refused: a load that brought nothing into service. A worker that starts later must not
                try it again: it may find other files, and serve what its peers do not.
        """
        action, name, accept_changed = command
        try:
            if action == "load":
                load = partial(self._repository.load_model, name, accept_changed=accept_changed)
                await self._in_turn(load)
            else:
                await self._in_turn(partial(self._repository.unload_model, name))
        except ModelNotFound as error:
            if action == "load":
                raise Refused(("not found", error.known)) from error
            return "not found", error.known
        except LoadFailed as error:
            model = self._repository.models.get(name)
            if model is None or not any(each.served for each in model.versions.values()):
                raise Refused(("failed", error.why)) from error
            return "failed", error.why
        return "done", None

    # --- by what lies there ---------------------------------------------------------------------

    def look(self) -> bool:
        """Has the repository looked at now; tells whether this mode looks at it at all."""
        self._changed.set()
        return self._mode in ("poll", "watch")

    async def refresh(self) -> None:
        """Makes what serves agree with what lies in the repository; returns when that is done.

        Raises:
            OSError: the repository cannot be read; all goes on as it is.
        """
        await self._in_turn(self._repository.refresh)

    async def _keep_up(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._poll_interval_s)
            self._changed.clear()
            try:
                await self._in_turn(partial(self._repository.refresh, wait=False))
            except OSError as error:
                self._complain(f"the repository cannot be read: {error}")
            except Exception:  # noqa: BLE001 - the next look may fare better
                _log.exception("the repository was not brought up to date")
            else:
                self._complaint = ""

    async def _keep_trying(self) -> None:
        """Tries again what failed for a cause that passes, where nothing else looks."""
        while True:
            await asyncio.sleep(self._poll_interval_s)
            self._repository.retry()

    def _complain(self, complaint: str) -> None:
        """Logs what may go on for long once, not at every look."""
        if complaint != self._complaint:
            _log.error("%s; what serves goes on", complaint)
        self._complaint = complaint

    async def _watch_files(self) -> None:
        # Imported here, for who does not watch.
        from watchfiles import awatch  # noqa: PLC0415

        try:
            async for _ in awatch(
                self._repository.directory, watch_filter=None, ignore_permission_denied=True
            ):
                self._changed.set()
        except (OSError, RuntimeError) as error:
            _log.warning("no file events (%s): only polling", error)

    async def _in_turn(self, change: Callable[[], None]) -> None:
        await asyncio.wrap_future(self._thread.submit(change))


def _report(loading: "asyncio.Future[None]") -> None:
    """Logs how a load failed that nobody waits for any more."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.error("models were not loaded", exc_info=error)
