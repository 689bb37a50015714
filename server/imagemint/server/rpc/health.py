"""Reports the health of the server and its models as models are loaded and unloaded."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from imagemint.server.repository import ModelRepository

_log = logging.getLogger(__name__)


class StatusSetter(Protocol):
    """Sets the status of one name in the health service."""

    async def __call__(self, name: str, *, serving: bool) -> None:
        """Sets the status of ``model/<name>``, ``model/<name>/<version>``, or '' for the server."""


class HealthReporter:
    """Follows the repository and reports every change of status.

    An unloaded version is NOT_SERVING. The server as a whole is SERVING while any version is.
    Without a ready version it is NOT_SERVING, unless no model is meant to be loaded.

    Args:
        repository: the models.
        set_status: sets a status in the health service.
    """

    def __init__(self, repository: ModelRepository, set_status: StatusSetter) -> None:
        self._repository = repository
        self._set_status = set_status
        self._reported: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reports the current status and then every change."""
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            with contextlib.suppress(RuntimeError):  # a closed loop needs no report
                loop.call_soon_threadsafe(self._changed.set)

        self._unwatch = self._repository.watch(on_change)
        await self._report()
        self._following = asyncio.create_task(self._follow())

    def stop(self) -> None:
        """Stops reporting. May be called twice."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._report()

    async def _report(self) -> None:
        statuses = self._compute_status()
        for name in self._reported.keys() - statuses.keys():
            statuses[name] = False
        for name, serving in statuses.items():
            if self._reported.get(name) is not serving:
                await self._set_status(name, serving=serving)
                self._reported[name] = serving
                if not name and (serving or self._repository.loaded):
                    _log.log(*_LOG_LINES[serving])

    def _compute_status(self) -> dict[str, bool]:
        statuses = {}
        for model in self._repository.models.values():
            for version in model.versions.values():
                statuses[f"model/{model.name}/{version.number}"] = version.served is not None
            statuses[f"model/{model.name}"] = model.default_version is not None
        # The server comes last: a client that waits for it then finds the models up to date.
        return {**statuses, "": self._repository.ready}


_LOG_LINES = {
    True: (logging.INFO, "health says SERVING"),
    False: (logging.ERROR, "health says NOT_SERVING: no model is ready"),
}
