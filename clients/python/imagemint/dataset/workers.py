"""Makes shards in several processes of this machine.

Encoding pictures holds the interpreter lock, so threads would share one core. Each process has its
own source and takes the next shard when it is free; a slow server therefore gets fewer shards.
Processes are spawned, because gRPC and ONNX Runtime do not survive a fork.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import wait as wait_for
from multiprocessing.synchronize import Event
from typing import Any

from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import LocalFolder, WrittenFile, translate_os_error
from imagemint.dataset.interrupts import hold_signals
from imagemint.dataset.places import open_folder
from imagemint.dataset.plan import Shard
from imagemint.dataset.progress import Progress
from imagemint.dataset.shards import Stopped, Task, make_shard
from imagemint.dataset.sources import ServerSource, Source

_POLL_S = 0.2
# Shards given out ahead, so that no process waits for the next one.
_AHEAD = 2


def make_in_processes(
    task: Task, missing: Iterator[Shard], workers: int, progress: Progress
) -> None:
    """Makes shards in `workers` processes.

    Raises:
        DatasetError: a shard failed, or a process ended unexpectedly. The other processes stop.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    numbers: Any = context.Value("Q", 0)
    made: Any = context.Value("Q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (task, stop, numbers, made))
    try:
        _run(pool, missing, workers, made, progress)
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process ended unexpectedly (killed, or out of memory?). Finished shards are "
            "kept. Run the same command again to continue, with fewer --workers if it lacks memory"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _run(
    pool: ProcessPoolExecutor,
    missing: Iterator[Shard],
    workers: int,
    made: Any,  # noqa: ANN401 - multiprocessing does not name the type of a shared value
    progress: Progress,
) -> None:
    futures: set[Future[list[WrittenFile]]] = set()
    while True:
        room = workers + _AHEAD - len(futures)
        for shard in islice(missing, room):
            with hold_signals():  # it may start a process
                futures.add(pool.submit(_work, shard))
        if not futures:
            break
        done, futures = wait(futures, _POLL_S, FIRST_COMPLETED)
        for future in done:
            progress.add_bytes(sum(file.size for file in future.result()))
        progress.add_images(made.value - progress.images)


class _Worker:
    """State of a worker process."""

    task: Task
    source: Source
    folder: Any
    report: Any
    failure: Exception | None = None


def _start_worker(
    task: Task,
    stop: Event,
    numbers: Any,  # noqa: ANN401 - see above
    made: Any,  # noqa: ANN401 - see above
) -> None:
    """Prepares a worker process. A failure is kept, because the pool would hide its reason."""
    _end_with_parent()
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1

    def report(images: int) -> None:
        if stop.is_set():
            raise Stopped
        with made.get_lock():
            made.value += images

    _Worker.task, _Worker.report = task, staticmethod(report)
    try:
        _Worker.folder = open_folder(task.place)
        if isinstance(_Worker.folder, LocalFolder):
            _held.enter_context(_Worker.folder.hold_as_worker())
        _Worker.source = source = task.spec.open_source(task.plan, number)
        if isinstance(source, ServerSource):
            _stop_with(stop, source)
    except Exception as error:  # noqa: BLE001 - the first shard reports it
        _Worker.failure = error


_held = ExitStack()


def _work(shard: Shard) -> list[WrittenFile]:
    try:
        if _Worker.failure is not None:
            raise _Worker.failure  # noqa: TRY301 - it is translated as the errors of a shard
        task, source, folder = _Worker.task, _Worker.source, _Worker.folder
        return make_shard(task.plan, shard, source, folder, _Worker.report, repair=task.repair)
    except (DatasetError, Stopped):
        raise
    except OSError as error:
        raise translate_os_error(error, _Worker.task.place) from error
    except Exception as error:
        # Other classes may not survive the way to the parent.
        raise DatasetError(f"{type(error).__name__}: {error}") from error


def _stop_with(stop: Event, source: ServerSource) -> None:
    """Ends the reads of a source when the run ends, even while they wait for a server."""

    def watch() -> None:
        stop.wait()
        source.stop()

    threading.Thread(target=watch, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent ends, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch(sentinel: int = parent.sentinel) -> None:
            wait_for([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
