"""An event loop on a thread of its own, which ordinary code submits coroutines to."""

import asyncio
import atexit
import concurrent.futures
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from imagemint.client import forks
from imagemint.client.errors import ClientClosed, ClientForked

ResultT = TypeVar("ResultT")

# A loop that does not end by then is stuck in foreign code; an exiting process does not wait on.
_CLOSE_TIMEOUT_S = 5.0


class Portal:
    """Runs coroutines to their end on a private event loop.

    It is safe for use from any thread but its own. If nobody closes it, the garbage collector or
    the end of the process does.

    The garbage collector may call `post` at any point of any thread, also inside another method of
    the same portal. Therefore nothing here takes a lock: the loop and its callers share a set of
    pending futures, and either side cancels what the other can no longer finish.

    Args:
        farewell: the last coroutine that runs on the loop. It must not refer to the portal, which
            would otherwise never be collected.
    """

    def __init__(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._state = _State()
        self._generation = forks.generation()
        self._thread = threading.Thread(
            target=_run,
            args=(self._state, farewell),
            name="imagemint-client",
            daemon=True,
        )
        self._thread.start()
        self._state.started.result()
        finalizer = weakref.finalize(self, _stop, self._state, self._generation)
        finalizer.atexit = False  # _close_all does it, and waits
        _portals.add(self)
        _threads.add(self._thread)

    def wait(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of `coroutine`. An interrupted wait, as by Ctrl-C, cancels it.

        Raises:
            ClientForked: this process inherited the portal from its parent.
            ClientClosed: the portal is closed, or was closed meanwhile.
            RuntimeError: called on the portal's own thread, where waiting would never end.
        """
        if threading.current_thread() is self._thread and not self._forked:
            coroutine.close()
            raise RuntimeError("a blocking call inside the client's own event loop")
        future = self._submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed from None
        finally:
            future.cancel()  # of no effect on what is done

    def post(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Starts `coroutine` without waiting for it; drops it if the portal is closed."""
        try:
            self._submit(coroutine)
        except (ClientClosed, ClientForked):
            return

    def close(self) -> None:
        """Cancels what is under way and ends the thread. Closing twice is harmless."""
        _stop(self._state, self._generation)
        if not self._forked and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)

    @property
    def _forked(self) -> bool:
        return self._generation != forks.generation()

    def _submit(
        self, coroutine: Coroutine[Any, Any, ResultT]
    ) -> concurrent.futures.Future[ResultT]:
        if self._forked:
            coroutine.close()
            raise ClientForked
        if self._state.stopping or self._state.ended:
            coroutine.close()
            raise ClientClosed
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._state.started.result()[0])
        except RuntimeError:  # the loop closed meanwhile
            coroutine.close()
            raise ClientClosed from None
        self._state.pending.add(future)
        future.add_done_callback(self._state.pending.discard)
        # In this order: the thread first says that it ended and then cancels what is pending.
        if self._state.ended and future.cancel() and not _was_started(coroutine):
            coroutine.close()
        return future


_Ends = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class _State:
    """What the portal and its thread share."""

    def __init__(self) -> None:
        self.started: concurrent.futures.Future[_Ends] = concurrent.futures.Future()
        self.pending: set[concurrent.futures.Future[Any]] = set()
        self.stopping = False
        self.ended = False


def _run(state: _State, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The whole life of the thread."""
    try:
        asyncio.run(_live(state, farewell))
    finally:
        state.ended = True
        while state.pending:
            state.pending.pop().cancel()


async def _live(state: _State, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    state.started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await farewell()
    # asyncio.run cancels what is left, and waits for it.


def _stop(state: _State, generation: int) -> None:
    """Lets the loop end; does not wait, because the garbage collector may call it anywhere."""
    if generation != forks.generation():
        return  # the loop and its self-pipe belong to the parent
    state.stopping = True
    loop, stop = state.started.result()
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        return  # it has ended by itself


def _was_started(coroutine: Coroutine[Any, Any, object]) -> bool:
    return inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


_portals: "weakref.WeakSet[Portal]" = weakref.WeakSet()
_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends every thread before the interpreter takes the modules apart that it runs in."""
    for portal in list(_portals):
        portal.close()
    for thread in list(_threads):
        thread.join(_CLOSE_TIMEOUT_S)
