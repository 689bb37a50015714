"""Unloads versions: waits for their last calls and releases their memory."""

import logging
import threading
import time
from collections.abc import Callable

from imagemint.server.repository.loading import close
from imagemint.server.repository.versions import ServedVersion

_log = logging.getLogger(__name__)


class Unloading:
    """Unloads each version on its own thread, because running calls can take long.

    Args:
        grace_s: time for running calls to finish.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._leaving: dict[threading.Thread, ServedVersion] = {}

    def begin(self, served: ServedVersion, on_unloaded: Callable[[], None]) -> None:
        """Starts to unload a version that receives no new calls.

        Args:
            served: the version.
            on_unloaded: called on another thread after its memory was released.
        """
        served.holds.retire()
        thread = threading.Thread(
            target=self._unload,
            args=(served, on_unloaded),
            name=f"unload-{served.spec.name}-{served.version}",
            daemon=True,  # a hanging device must not keep the process alive
        )
        self._leaving[thread] = served
        thread.start()

    def _unload(self, served: ServedVersion, on_unloaded: Callable[[], None]) -> None:
        name, number = served.spec.name, served.version
        began = time.monotonic()
        if not served.holds.wait(self._grace_s):
            # Streams end between two chunks; queued work is still computed.
            _log.warning("%s@%d is unloaded while calls are still running", name, number)
            served.holds.expire()
        try:
            close(served)
            on_unloaded()
        except Exception:  # noqa: BLE001 - nothing else reports it on this thread
            _log.exception("%s@%d failed to unload", name, number)
        else:
            _log.info("unloaded %s@%d after %.2f s", name, number, time.monotonic() - began)
        del self._leaving[threading.current_thread()]

    def close(self, timeout_s: float | None = None) -> None:
        """Ends all grace periods and waits until the versions are unloaded.

        Args:
            timeout_s: time for each version; None means no limit.
        """
        for thread, served in tuple(self._leaving.items()):
            served.holds.expire()
            thread.join(timeout_s)
            if thread.is_alive():
                _log.error("%s@%d hangs and is not released", served.spec.name, served.version)
