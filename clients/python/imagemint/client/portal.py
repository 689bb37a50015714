"""An event loop on a thread of its own, and the way in from ordinary code."""

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from imagemint.client.errors import Cancelled

ResultT = TypeVar("ResultT")

# A loop that does not end by then is stuck in foreign code; an exiting process does not wait on.
_FAREWELL_S = 5.0


class Portal:
    """Runs coroutines to their end on a private event loop.

    Safe from any thread but its own. Forgetting to close it is tolerable: the garbage collector,
    or the end of the process, closes it as well.

    Args:
        farewell: the last thing that runs on the loop. It must not refer to the portal, which
            would otherwise never be collected.
    """

    def __init__(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        started: concurrent.futures.Future[_Ends] = concurrent.futures.Future()
        thread = threading.Thread(
            target=lambda: asyncio.run(_live(started, farewell)),
            name="imagemint-client",
            daemon=True,
        )
        thread.start()
        self._thread = thread
        self._loop, stop = started.result()
        # Orders submissions before the stop: what came earlier is cancelled, never left hanging.
        self._gate = threading.Lock()
        self._finalizer = weakref.finalize(self, _end, self._loop, stop, thread)

    def wait(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of `coroutine`. An interrupted wait, as by Ctrl-C, cancels it.

        Raises:
            Cancelled: the portal is closed, or was closed meanwhile.
            RuntimeError: called on the portal's own thread, where waiting would never end.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking call inside the client's own event loop")
        future = self._submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Cancelled("the client was closed", reason="CLIENT_CLOSED") from None
        finally:
            future.cancel()  # of no effect on what is done

    def post(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Starts `coroutine` without waiting for it; drops it if the portal is closed."""
        try:
            self._submit(coroutine)
        except Cancelled:
            return

    def close(self) -> None:
        """Cancels what is under way and ends the thread. Closing twice is harmless."""
        with self._gate:
            self._finalizer()

    def _submit(
        self, coroutine: Coroutine[Any, Any, ResultT]
    ) -> concurrent.futures.Future[ResultT]:
        with self._gate:
            if self._finalizer.alive:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise Cancelled("the client is closed", reason="CLIENT_CLOSED")


_Ends = tuple[asyncio.AbstractEventLoop, asyncio.Event]


async def _live(
    started: "concurrent.futures.Future[_Ends]",
    farewell: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await farewell()
    # asyncio.run cancels what is left, and waits for it.


def _end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    if thread is not threading.current_thread():  # the garbage collector runs on any thread
        thread.join(_FAREWELL_S)
