"""Makes shards on a Ray cluster.

A shard is a stateless Ray task. Ray places the tasks on the nodes, and runs a task again elsewhere
if its worker or its node dies. Publishing a shard can be repeated, so a task that runs twice does
no harm. Actors would need a pool of our own that hands out shards and replaces dead actors. Ray
Data would move rows between its stages, but a shard is written where it is made. A worker process
serves many tasks, and opens its source once.

The bundle travels through Ray's object store, so nodes need no model repository. The data set must
be at a place that all nodes reach: an address such as s3://, or a shared file system.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from imagemint.dataset.errors import DatasetError, TemporaryFailure
from imagemint.dataset.folder import LocalFolder, WrittenFile, translate_os_error
from imagemint.dataset.places import open_folder
from imagemint.dataset.plan import Plan, Shard
from imagemint.dataset.progress import Progress
from imagemint.dataset.shards import Task, make_shard
from imagemint.dataset.sources import LocalSpec, Source

_RETRIES = 5
# Tasks for each core of the cluster, so that no core waits for the next one.
_TASKS_PER_CORE = 2


def make_on_ray(
    task: Task, missing: Iterator[Shard], progress: Progress, address: str | None
) -> None:
    """Makes shards on a cluster.

    Args:
        task: the task.
        missing: the shards.
        progress: counts a shard when it is finished.
        address: address of the cluster. None: that of RAY_ADDRESS, a cluster that runs on this
            machine, or a new one.

    Raises:
        DatasetError: the cluster cannot be reached, or a shard failed.
    """
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        _run(task, missing, progress)
    except RayTaskError as error:
        failure = TemporaryFailure if isinstance(error.cause, TemporaryFailure) else DatasetError
        raise failure(str(error.cause)) from error
    except (RayError, ConnectionError) as error:
        text = str(error).strip().splitlines()[0]
        raise DatasetError(
            f"Ray: {text} Finished shards are kept. Run the same command again to continue"
        ) from error


def _run(task: Task, missing: Iterator[Shard], progress: Progress) -> None:
    on_gpu = isinstance(task.spec, LocalSpec) and task.plan.execution_provider.startswith("CUDA")
    work = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=_RETRIES)(_work)
    shared = ray.put(task if not isinstance(task.spec, LocalSpec) else _pack(task))
    active: dict[Any, Shard] = {}
    while True:
        # The cluster may grow or shrink meanwhile. Ray has partial types, and may not be installed.
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        cores = int(resources.get("CPU", 1))
        for shard in islice(missing, max(0, _TASKS_PER_CORE * cores - len(active))):
            active[work.remote(shared, shard)] = shard
        if not active:
            return
        done, _ = ray.wait(list(active))
        for reference in done:
            files = ray.get(reference)
            progress.add_images(active.pop(reference).count)
            progress.add_bytes(sum(file.size for file in files))


def _pack(task: Task) -> tuple[Task, dict[str, bytes]]:
    """Returns the task with the files of its bundle, without the findings of this machine."""
    spec = task.spec
    if not isinstance(spec, LocalSpec):
        raise TypeError("only a local source has a bundle")
    files = {path.name: path.read_bytes() for path in spec.directory.iterdir() if path.is_file()}
    return replace(task, spec=replace(spec, findings=None)), files


class _Worker:
    """State of a worker process: the source of the data set that it made last."""

    plan: Plan | None = None
    source: Source | None = None
    bundle: tempfile.TemporaryDirectory[str] | None = None


def _work(shared: Task | tuple[Task, dict[str, bytes]], shard: Shard) -> list[WrittenFile]:
    """Makes a shard, in a worker process of the cluster."""
    task, files = shared if isinstance(shared, tuple) else (shared, {})
    folder = open_folder(task.place)
    try:
        source = _open_source(task, files)
        held = folder.hold_as_worker() if isinstance(folder, LocalFolder) else nullcontext()
        with held:
            return make_shard(task.plan, shard, source, folder, repair=task.repair)
    except DatasetError:
        raise
    except OSError as error:
        raise translate_os_error(error, folder.place) from error
    except Exception as error:
        # Other classes may not survive the way to the driver.
        raise DatasetError(f"{type(error).__name__}: {error}") from error


def _open_source(task: Task, files: dict[str, bytes]) -> Source:
    if _Worker.source is not None and _Worker.plan == task.plan:
        return _Worker.source
    if _Worker.source is not None:
        _Worker.source.close()
        _Worker.source = None
    spec = task.spec
    if isinstance(spec, LocalSpec):
        _Worker.bundle = tempfile.TemporaryDirectory(prefix="imagemint-")
        # A bundle is checked against the names of its folders.
        directory = Path(_Worker.bundle.name, *spec.directory.parts[-2:])
        directory.mkdir(parents=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
        spec = replace(spec, directory=directory)
    source = spec.open_source(task.plan, os.getpid())
    _Worker.plan, _Worker.source = task.plan, source
    return source
