"""Taking a version away behind the last call inside it, and giving its memory back."""

import logging
import threading
import time
from collections.abc import Callable

from imagemint.server.repository.loading import close
from imagemint.server.repository.versions import ServedVersion

_log = logging.getLogger(__name__)


class Unloading:
    """The versions that are leaving, each on a thread of its own, for their calls take their time.

    Args:
        grace_s: time that the calls inside have to finish.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._leaving: dict[threading.Thread, ServedVersion] = {}

    def begin(self, served: ServedVersion, gone: Callable[[], None]) -> None:
        """Lets a version go that nobody can resolve any more.

        Args:
            served: which.
            gone: called on another thread when its memory was given back.
        """
        served.holds.retire()
        thread = threading.Thread(
            target=self._unload,
            args=(served, gone),
            name=f"unload-{served.spec.name}-{served.version}",
            daemon=True,  # a device that hangs must not keep the process
        )
        self._leaving[thread] = served
        thread.start()

    def _unload(self, served: ServedVersion, gone: Callable[[], None]) -> None:
        name, number = served.spec.name, served.version
        began = time.monotonic()
        if not served.holds.wait(self._grace_s):
            # Streams end between two chunks; what is queued is computed all the same.
            _log.warning("%s@%d is unloaded under calls that are still inside", name, number)
            served.holds.expire()
        try:
            close(served)
            gone()
        except Exception:  # noqa: BLE001 - nobody else would hear of it on this thread
            _log.exception("%s@%d did not unload well", name, number)
        _log.info("unloaded %s@%d after %.2f s", name, number, time.monotonic() - began)
        del self._leaving[threading.current_thread()]

    def close(self, timeout_s: float | None = None) -> None:
        """Cuts every grace short and waits for the end.

        Args:
            timeout_s: time for each; None waits as long as it takes.
        """
        for thread, served in tuple(self._leaving.items()):
            served.holds.expire()
            thread.join(timeout_s)
            if thread.is_alive():
                _log.error("%s@%d hangs; it is left behind", served.spec.name, served.version)
