"""An event loop on its own thread, which blocking code submits coroutines to."""

import asyncio
import atexit
import concurrent.futures
import inspect
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from imagemint.client import forks
from imagemint.client.errors import ClientClosed, ClientForked

ResultT = TypeVar("ResultT")

# A loop that takes longer to end is stuck in other code, and an exiting process must not wait.
_CLOSE_TIMEOUT_S = 5.0


class Errands:
    """Calls that a waiting thread makes for coroutines, one after the other.

    What takes time, such as to read the sources of a user, would hold up all calls on the loop. It
    also belongs to the thread of the user, who may use the same client in it.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Returns what `function` returns in the thread that waits next, or raises its error."""
        future: concurrent.futures.Future[ResultT] = concurrent.futures.Future()

        def execute() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - the coroutine raises it
                future.set_exception(error)

        self._calls.put(execute)
        return await asyncio.wrap_future(future)

    def run(self) -> None:
        """Makes the calls in this thread, until `end`."""
        while (call := self._calls.get()) is not None:
            call()

    def end(self) -> None:
        """Ends `run` once it has made the calls that were requested before."""
        self._calls.put(None)


class Portal:
    """Runs coroutines on a private event loop.

    You can use it from any thread but its own. If you do not close it, the garbage collector or the
    end of the process closes it.

    The garbage collector may call `post` at any point of any thread, even inside another method of
    the same portal. Therefore this class takes no lock: the loop and its callers share a set of
    pending futures, and each side cancels the futures that the other side can no longer finish.

    Args:
        farewell: the last coroutine that runs on the loop. It must not refer to the portal, or the
            portal would never be collected.
    """

    def __init__(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._state = _State()
        self._generation = forks.count_forks()
        self._thread = threading.Thread(
            target=_run,
            args=(self._state, farewell),
            name="imagemint-client",
            daemon=True,
        )
        self._thread.start()
        self._state.started.result()
        finalizer = weakref.finalize(self, _stop, self._state, self._generation)
        finalizer.atexit = False  # _close_all closes the portal and waits
        _portals.add(self)
        _threads.add(self._thread)

    def wait(
        self, coroutine: Coroutine[Any, Any, ResultT], errands: "Errands | None" = None
    ) -> ResultT:
        """Returns the result of `coroutine`. An interrupt, such as Ctrl-C, cancels it.

        Args:
            coroutine: what to run on the loop.
            errands: what the coroutine asks the calling thread to do while it waits.

        Raises:
            ClientForked: this process inherited the portal from its parent.
            ClientClosed: the portal is closed, or another thread closed it during the wait.
            RuntimeError: the call comes from the portal's own thread, and would never return.
        """
        if threading.current_thread() is self._thread and not self._forked:
            coroutine.close()
            raise RuntimeError(
                "a blocking call inside the event loop of the client; use AsyncClient there"
            )
        future = self._submit(coroutine)
        try:
            if errands is not None:
                future.add_done_callback(lambda _: errands.end())
                errands.run()
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed from None
        finally:
            future.cancel()  # has no effect on a future that is done

    def check(self) -> None:
        """Checks that the portal is open.

        Raises:
            ClientForked, ClientClosed: as `wait`.
        """
        if self._forked:
            raise ClientForked
        if self._state.stopping or self._state.ended:
            raise ClientClosed

    def post(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Starts `coroutine` without waiting for it; drops it if the portal is closed."""
        try:
            self._submit(coroutine)
        except (ClientClosed, ClientForked):
            return

    def close(self) -> None:
        """Cancels all calls and ends the thread. You may close twice."""
        _stop(self._state, self._generation)
        if not self._forked and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)

    @property
    def _forked(self) -> bool:
        return self._generation != forks.count_forks()

    def _submit(
        self, coroutine: Coroutine[Any, Any, ResultT]
    ) -> concurrent.futures.Future[ResultT]:
        try:
            self.check()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._state.started.result()[0])
        except (ClientForked, ClientClosed):
            coroutine.close()
            raise
        except RuntimeError:  # the loop closed meanwhile
            coroutine.close()
            raise ClientClosed from None
        self._state.pending.add(future)
        future.add_done_callback(self._state.pending.discard)
        # The order matters: the thread first sets `ended` and then cancels the pending futures.
        if self._state.ended and future.cancel() and not _is_started(coroutine):
            coroutine.close()
        return future


_Ends = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class _State:
    """State that the portal and its thread share."""

    def __init__(self) -> None:
        self.started: concurrent.futures.Future[_Ends] = concurrent.futures.Future()
        self.pending: set[concurrent.futures.Future[Any]] = set()
        self.stopping = False
        self.ended = False


def _run(state: _State, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs on the thread from its start to its end."""
    try:
        asyncio.run(_run_loop(state, farewell))
    finally:
        state.ended = True
        while state.pending:
            state.pending.pop().cancel()


async def _run_loop(state: _State, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    state.started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await farewell()
    # asyncio.run cancels the remaining tasks and waits for them.


def _stop(state: _State, generation: int) -> None:
    """Tells the loop to end, without waiting: the garbage collector may call this anywhere."""
    if generation != forks.count_forks():
        return  # the loop and its self-pipe belong to the parent
    state.stopping = True
    loop, stop = state.started.result()
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        return  # the loop has already ended


def _is_started(coroutine: Coroutine[Any, Any, object]) -> bool:
    return inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


_portals: "weakref.WeakSet[Portal]" = weakref.WeakSet()
_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends every thread before the interpreter clears the modules that it uses."""
    for portal in list(_portals):
        portal.close()
    for thread in list(_threads):
        thread.join(_CLOSE_TIMEOUT_S)
