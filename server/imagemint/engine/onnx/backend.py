"""The backend on ONNX Runtime.

**One session, several threads.** `Run` is thread-safe and releases the GIL, and with one intra-op
thread it computes on the calling thread. Two threads on one session delivered 0.98 to 1.06 times
the images/s of two sessions with one thread each (median of 12 alternating rounds, batches of 8 and
64, 128-channel digit generator, ONNX Runtime 1.31.1; the cores were busy, hence only the ratio). A
session holds the weights once, so one is enough. Create it after any fork.

**A batch without others beside it** can use several cores. For that, the backend keeps a second
session with several threads. They spin, because waking them takes too long for a run of a
millisecond. The backend uses this session only if the probe finds the same floats as in the first
one, and only for a few rows; larger batches are divided among the instances.

**Batch invariance.** The pixels of a row must not depend on its batch. Measured with ONNX Runtime
1.31.1 on AVX-512, batches of 1 to 70, floats before rounding compared bit by bit: a generator
(embedding, Gemm, two ConvTranspose, Conv, tanh; 64, 128 and 256 channels) never differs. A Gemm or
MatMul with constant weights never differs, because the weights are packed when the session is
created, and the packed kernel sums each row over K in the same order for every M. With weights that
the graph computes, only a batch of one differs, because it runs as a GEMV. So neither the exporter
nor the backend pads generators that are exported here. Other CPUs have other kernels, and on CUDA
cuDNN and cuBLAS select kernels by shape. Therefore every backend probes its bundle when it loads it
(see batch_invariance.py), and runs batches in the fastest way without any difference.

**On a GPU**, batches have fixed sizes, the buckets (see buckets.py): those of the configured sizes
in which the floats of a row agree. If the model can be captured, each instance has its own session,
whose runs are CUDA graphs. Each instance then needs memory for the weights, the activations of the
largest bucket, and buffers and a graph per bucket. Otherwise the instances bind their buffers to
one session. No mode gives up byte equality for speed, because a serial must not change its image
with the load.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from imagemint.engine.backend import Instance
from imagemint.engine.batch import Batch, Feed, count_rows, select_rows
from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.findings import FIXED_BATCH, Batching, Findings
from imagemint.engine.bundle.memory_estimate import Estimate
from imagemint.engine.bundle.probe_hints import add_output
from imagemint.engine.bundle.variants import REFERENCE, Variant, choose_variant
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.memory import measure_resident_bytes
from imagemint.engine.onnx.batch_invariance import (
    ALONE_ROWS,
    PROBE_ROWS,
    THOROUGH_BATCHES,
    choose_strictest_batching,
    find_agreeing_buckets,
    find_needed_batching,
    is_same_everywhere,
    make_probe_feed,
    make_probe_feeds,
)
from imagemint.engine.onnx.buckets import (
    BucketedInstance,
    bind_buckets,
    choose_default_buckets,
    split_into_pieces,
)
from imagemint.engine.onnx.session import (
    CUDA,
    RUNTIME_VERSION,
    BoundBatch,
    Session,
    create_cpu_session,
    create_cuda_session,
    get_first_line,
    on_device,
)

_log = logging.getLogger(__name__)

_Compute = Callable[[Feed], npt.NDArray[Any]]

# Maximum estimated working memory of one batch, and work of the probe; the runtime uses up to five
# times the memory. Without these limits, large images would need gigabytes, and slow ones minutes.
# The limits must not depend on the machine, because the batch sizes determine the last bits of
# floats.
_BATCH_BYTES = 2**28
_PROBE_FLOPS = 3 * 10**11
_THOROUGH_FLOPS = 10**12
# Number of rows that the probe computes per row of its largest batch.
_RUNS_PER_ROW, _RUNS_PER_ROW_THOROUGH = 10, 16
_FEWEST_ROWS = 4
# Convert measured memory and time of one image to the units of the estimate.
_TAKEN_PER_ESTIMATED = 4
_MEASURED_FLOPS_PER_S = 10**10
DEFAULT_MAX_IMAGE_MEMORY = 2**29
"""Bytes. A generator of 1024x1024 images with 32 features per pixel needs about as much."""
# The batch size of the modes with a single batch size.
_SIZES_OF = {Batching.FIXED: (FIXED_BATCH,), Batching.ALONE: (1,)}


class OnnxBackend:
    """Runs a bundle in an ONNX Runtime session. Implements `Backend`.

    Args:
        bundle: the bundle; its file is read again and must be unchanged.
        device: `cpu`, `cuda`, or `auto`: CUDA if it works, otherwise the CPU.
        intra_op_threads: number of threads per run on the CPU. With 1, the calling thread computes.
            CUDA always uses 1.
        alone_threads: number of threads for a batch on the CPU while no other batch runs, if the
            result is the same byte for byte. Above 1, the model takes twice the memory.
        max_batch: maximum number of rows of most batches; with buckets, larger batches are split.
        buckets: batch sizes, if batches are padded to buckets. Default: 1, 2, 4, ... `max_batch`.
            Sizes in which a row would differ are left out.
        bucketed: whether to pad batches to buckets. Default: only on CUDA.
        cuda_graphs: whether to capture runs as CUDA graphs, if the model supports it.
        variant: the graph of the bundle: `auto` for the one made for the device, if any;
            `reference` for model.onnx; or a name.
        max_image_memory_bytes: maximum working memory of one image; more refuses the bundle.

    Raises:
        BundleRefused: the runtime cannot load the model, its images differ in shape from the
            manifest, or it has no such variant.
        BackendFailed: `cuda` was requested and does not work.
        ValueError: there is no such device.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        intra_op_threads: int = 1,
        alone_threads: int = 1,
        max_batch: int = PROBE_ROWS,
        buckets: Sequence[int] | None = None,
        bucketed: bool | None = None,
        cuda_graphs: bool = True,
        variant: str = REFERENCE,
        max_image_memory_bytes: int = DEFAULT_MAX_IMAGE_MEMORY,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
        self._spec = bundle.spec
        self._name = f"{bundle.spec.name}@{bundle.version}"
        session, why, self._variant, why_variant, content = _open_session(
            bundle, device, intra_op_threads, variant, max_image_memory_bytes
        )
        self._session: Session | None = session
        self._provider = session.provider
        self._threads = intra_op_threads
        self._alone: Session | None = None
        self._most_rows = _compute_most_rows(self._variant.estimate)
        on_gpu = session.provider == CUDA
        # Kept to read the graph again for each instance: the bytes are large and rarely needed.
        self._bundle = bundle.without_contents() if on_gpu and cuda_graphs else None
        self._buckets: tuple[int, ...] = ()
        # Buffers and graphs of buckets are made for one shape.
        is_free = bundle.spec.source is not None and bundle.spec.source.is_free
        if not is_free and (bucketed if bucketed is not None else on_gpu):
            sizes = sorted(set(buckets or choose_default_buckets(max_batch)))
            wanted = tuple(s for s in sizes if s <= self._most_rows) or (self._most_rows,)
            self._sample = make_probe_feed(bundle.spec, wanted[-1])
            self._buckets = self._find_buckets(bundle, content, wanted)
            self._batching = Batching.BUCKETS
            as_hoped, batching_text = self._buckets == wanted, ", ".join(map(str, self._buckets))
        else:
            self._batching = self._determine_batching(bundle, content, alone_threads)
            as_hoped, batching_text = self._batching is Batching.AS_THEY_COME, self._batching.value
        del content
        _log.log(
            logging.INFO if as_hoped else logging.WARNING,
            "model %s runs on %s (%s), in batches %s%s",
            *(self._name, self.description, why, "of " if self._buckets else "", batching_text),
        )
        _log.log(
            logging.INFO if len(bundle.variants) > 1 else logging.DEBUG,
            "model %s runs its variant %s (%s)",
            *(self._name, self._variant.name, why_variant),
        )

    @property
    def provider(self) -> str:
        """The active execution provider."""
        return self._provider

    @property
    def description(self) -> str:
        """Provider and version of ONNX Runtime, such as `CPUExecutionProvider 1.31.1`."""
        return f"{self._provider} {RUNTIME_VERSION}"

    @property
    def variant(self) -> Variant:
        """The graph of the bundle that it runs."""
        return self._variant

    @property
    def batching(self) -> Batching:
        """The batching that the probe requires."""
        return self._batching

    @property
    def findings(self) -> Findings:
        """The results of the probe, for other backends of the same graph on this machine."""
        return Findings(
            self._variant.sha256, self._batching, self._alone is not None, self._most_rows
        )

    @property
    def buckets(self) -> tuple[int, ...]:
        """Sizes that batches are padded to, ascending; empty without padding to buckets."""
        return self._buckets

    def run(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the images, uint8 [N, height, width, channels]; see `Backend.run`."""
        feed = self._prepare(batch)
        count = len(batch)
        if count == 0:
            shape = self._spec.make_image_shape(_get_source_shape(feed))
            return np.empty((0, *shape), dtype=np.uint8)
        if buckets := _SIZES_OF.get(self._batching, self._buckets):
            cut = [
                (select_rows(feed, p.start, p.stop), p.size)
                for p in split_into_pieces(count, buckets)
            ]
            return np.concatenate([self._run_padded(part, size) for part, size in cut])
        if count > self._most_rows:  # larger batches are not probed, and are no faster
            starts = range(0, count, self._most_rows)
            parts = [select_rows(feed, start, start + self._most_rows) for start in starts]
            return np.concatenate([self._run_as_given(part) for part in parts])
        return self._run_as_given(feed)

    def run_alone(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the same as `run`, on several threads if the probe found equal results."""
        alone = self._alone
        if alone is None or not 1 <= len(batch) <= min(ALONE_ROWS, self._most_rows):
            return self.run(batch)
        return alone.run(self._prepare(batch))

    def open_instance(self) -> Instance:
        """Returns an instance for the calling thread; see `Backend.open_instance`."""
        session = self._get_session()
        if not self._buckets:
            return _SharedInstance(self)
        expected = self._compute(select_rows(self._sample, 0, self._buckets[-1]))
        bound = self._capture(expected)
        if bound is None:
            bound = self._bind(session, expected, graphs=False)
        return BucketedInstance(self._prepare, bound)

    def _capture(self, expected: npt.NDArray[np.uint8]) -> dict[int, BoundBatch] | None:
        """Returns the buckets as CUDA graphs; None if disabled or not possible."""
        if self._bundle is None:
            return None
        session = failure = None
        try:
            session = create_cuda_session(self._bundle.read_model(self._variant), graphs=True)
            return self._bind(session, expected, graphs=True)
        except BackendFailed as error:
            failure = error
        reason = get_first_line(failure.__cause__ or failure)
        _log.warning("model %s runs without CUDA graphs: %s", self._name, reason)
        # Freeing a session must not overlap with a capture of another model.
        with on_device(True):
            del session, failure
        return None

    def _bind(
        self, session: Session, expected: npt.NDArray[np.uint8], *, graphs: bool
    ) -> dict[int, BoundBatch]:
        return bind_buckets(
            session, self._spec, self._sample, expected, self._buckets, graphs=graphs
        )

    def close(self) -> None:
        """Releases the model. Active runs finish, later ones fail."""
        with on_device(self._provider == CUDA):
            self._session = self._alone = None

    def _get_session(self) -> Session:
        if self._session is None:
            raise BackendFailed("the model was closed")
        return self._session

    def _prepare(self, batch: Batch) -> Feed:
        self._get_session()
        return batch.make_feed(self._spec.inputs)

    def _run_as_given(self, feed: Feed) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch of any probed size."""
        if count_rows(feed) == 1 and self._batching is Batching.NEVER_ALONE:
            return self._run_padded(feed, 2)
        return self._compute(feed)

    def _run_padded(self, feed: Feed, size: int) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch that is padded to `size` rows with its first row."""
        count = count_rows(feed)
        if count < size:
            feed = {
                name: np.concatenate([value, np.repeat(value[:1], size - count, axis=0)])
                for name, value in feed.items()
            }
        return self._compute(feed)[:count]

    def _compute(self, feed: Feed) -> npt.NDArray[np.uint8]:
        return self._get_session().run(feed)

    def _determine_batching(self, bundle: Bundle, content: bytes, alone_threads: int) -> Batching:
        """Runs the probe, which also warms up the model; returns how batches must run."""
        found = bundle.findings
        if found is not None and found.sha256 == self._variant.sha256:
            self._most_rows = found.most_rows
            if found.spread and alone_threads > self._threads:
                self._alone = self._open_alone(bundle, content, alone_threads)
            return found.batching
        estimate = self._variant.estimate
        if not estimate.is_complete:
            estimate = self._measure(estimate)
            self._most_rows = _compute_most_rows(estimate)
        if estimate.mixing:
            _log.warning(
                "model %s runs one image at a time: rows of a batch mix in %s",
                *(self._name, ", ".join(estimate.mixing)),
            )
        if estimate.mixing or self._most_rows == 1:
            for feed in make_probe_feeds(bundle.spec, 1):
                self._check_images(bundle, feed)
            return Batching.ALONE
        return self._probe(bundle, content, alone_threads)

    def _measure(self, estimate: Estimate) -> Estimate:
        """Returns the estimate, raised to the measured memory and time of one image.

        On a CPU it is the time of this thread, so that other programs do not count.
        """
        clock = time.perf_counter if self._provider == CUDA else time.thread_time
        before, began = measure_resident_bytes(), clock()
        with contextlib.suppress(BackendFailed):  # the check of the images reports it
            self._compute(make_probe_feeds(self._spec, 1)[0])
        took_s = clock() - began
        row_bytes = (measure_resident_bytes() - before) // _TAKEN_PER_ESTIMATED
        flops = int(took_s * _MEASURED_FLOPS_PER_S)
        return replace(
            estimate,
            row_bytes=max(estimate.row_bytes, row_bytes),
            row_flops=max(estimate.row_flops, flops),
        )

    def _probe(self, bundle: Bundle, content: bytes, alone_threads: int) -> Batching:
        thorough = self._variant.hints.reduces
        batches = (
            _count_thorough_batches(self._variant.estimate, self._most_rows) if thorough else 1
        )
        feeds = make_probe_feeds(bundle.spec, batches * self._most_rows)
        with self._open_floats(content) as compute_floats:
            try:
                firsts = [
                    self._run_checked(bundle, select_rows(feed, 0, self._most_rows), compute_floats)
                    for feed in feeds
                ]
                probes = list(zip(feeds, firsts, strict=True))
                needed = choose_strictest_batching(
                    find_needed_batching(compute_floats, *probe, self._most_rows, thorough=thorough)
                    for probe in probes
                )
                if needed is Batching.AS_THEY_COME and alone_threads > self._threads:
                    alone = self._open_alone(bundle, content, alone_threads)
                    if self._is_spread(alone, alone_threads, compute_floats, probes):
                        self._alone = alone
            except BackendFailed as error:
                raise _cannot_run(bundle, error) from error
        return needed

    def _run_checked(
        self, bundle: Bundle, feed: Feed, compute_floats: _Compute
    ) -> npt.NDArray[Any]:
        """Returns the floats of a batch, and refuses the bundle if its images do not fit."""
        if self._provider == CUDA:
            self._check_images(bundle, feed)
            return compute_floats(feed)
        image, floats = self._get_session().run_with(feed, self._variant.hints.floats)
        _check_form(bundle, feed, image)
        return floats

    def _is_spread(
        self,
        alone: Session,
        threads: int,
        compute_floats: _Compute,
        probes: Sequence[tuple[Feed, npt.NDArray[Any]]],
    ) -> bool:
        """Returns whether several threads give the same floats as one thread.

        Args:
            alone: the session with several threads.
            threads: their number.
            compute_floats: computes the floats on one thread.
            probes: feeds, each with the floats of its first batch.
        """
        others = partial(alone.run, output=self._variant.hints.floats)
        agrees = all(
            is_same_everywhere(compute_floats, others, *probe, self._most_rows) for probe in probes
        )
        if not agrees:
            _log.warning(
                "model %s gives other floats on %d threads: every batch runs on one core",
                *(self._name, threads),
            )
        return agrees

    def _open_alone(self, bundle: Bundle, content: bytes, threads: int) -> Session:
        """Returns a warmed-up session with several threads."""
        content = add_output(content, self._variant.hints.floats)
        alone = create_cpu_session(content, threads, bundle.directory, spinning=True)
        alone.run(make_probe_feed(self._spec, 1))
        return alone

    def _find_buckets(
        self, bundle: Bundle, content: bytes, wanted: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Runs the probe in all buckets and returns those that agree with the largest."""
        self._check_images(bundle, self._sample)
        if self._variant.estimate.mixing:
            return (1,)
        with self._open_floats(content) as compute_floats:
            try:
                return find_agreeing_buckets(compute_floats, self._sample, wanted)
            except BackendFailed as error:
                raise _cannot_run(bundle, error) from error

    def _check_images(self, bundle: Bundle, feed: Feed) -> None:
        """Runs a batch, and refuses the bundle if the images do not fit its manifest."""
        try:
            image = self._compute(feed)
        except BackendFailed as error:
            raise _cannot_run(bundle, error) from error
        _check_form(bundle, feed, image)

    @contextlib.contextmanager
    def _open_floats(self, content: bytes) -> Iterator[_Compute]:
        """Yields a function that computes the floats before rounding, or else the images.

        On a CPU, the session that serves has the floats as its second output, which costs nothing
        if nobody asks for it. On a GPU, a temporary session computes them, because CUDA graphs and
        buffers are made for one output.
        """
        name = self._variant.hints.floats
        if self._provider != CUDA:
            yield partial(self._get_session().run, output=name)
            return
        with contextlib.closing(create_cuda_session(add_output(content, name))) as session:
            yield partial(session.run, output=name)


class _SharedInstance:
    """An instance that shares the session of its backend. Implements `Instance`."""

    def __init__(self, backend: OnnxBackend) -> None:
        self.run = backend.run
        self.run_alone = backend.run_alone

    def close(self) -> None:
        """Does nothing; the owner of the backend closes it."""


def _check_form(bundle: Bundle, feed: Feed, image: npt.NDArray[Any]) -> None:
    """Refuses a bundle if images do not fit its manifest."""
    expected = (count_rows(feed), *bundle.spec.make_image_shape(_get_source_shape(feed)))
    if image.dtype != np.uint8 or image.shape != expected:
        why = f"its images are {image.dtype} {image.shape}, not uint8 {expected}"
        raise BundleRefused(bundle.directory, why)


def _get_source_shape(feed: Feed) -> tuple[int, ...]:
    """Returns the shape of one source of a batch; empty for a model without a source."""
    return feed["source"].shape[1:] if "source" in feed else ()


def _compute_most_rows(estimate: Estimate) -> int:
    """Returns the maximum number of rows of a batch without padding."""
    by_memory = _BATCH_BYTES // max(estimate.row_bytes, 1)
    by_time = _PROBE_FLOPS // (_RUNS_PER_ROW * max(estimate.row_flops, 1))
    return max(1, min(by_memory, max(by_time, _FEWEST_ROWS), PROBE_ROWS))


def _count_thorough_batches(estimate: Estimate, most_rows: int) -> int:
    """Returns the number of batches of the thorough probe."""
    flops = max(1, estimate.row_flops) * most_rows * _RUNS_PER_ROW_THOROUGH
    return max(1, min(_THOROUGH_FLOPS // flops, THOROUGH_BATCHES))


def _cannot_run(bundle: Bundle, error: BackendFailed) -> BundleRefused:
    cause = error.__cause__ or error
    why = f"ONNX Runtime cannot run it: {get_first_line(cause)}"
    return BundleRefused(bundle.directory, why, passing=is_passing(cause))


def _open_session(
    bundle: Bundle, device: str, intra_op_threads: int, requested: str, most_bytes: int
) -> tuple[Session, str, Variant, str, bytes]:
    """Opens a session on a device.

    Returns:
        The session, the reason for its provider, the graph, the reason for the graph, and the bytes
        of the graph.

    Raises:
        BundleRefused: an image needs more memory than `most_bytes`, or the runtime cannot load it.
    """

    def on_cpu(why: str) -> tuple[Session, str, Variant, str, bytes]:
        variant, why_variant = _choose(bundle, "cpu", requested)
        _check_memory(bundle, variant, most_bytes)
        content = bundle.read_model(variant)
        shown = add_output(content, variant.hints.floats)
        session = create_cpu_session(shown, intra_op_threads, bundle.directory)
        return session, why, variant, why_variant, content

    if device == "cpu":
        return on_cpu("asked for")
    variant, why_variant = _choose(bundle, "cuda", requested)
    try:
        _check_memory(bundle, variant, most_bytes)
        content = bundle.read_model(variant)
        session = create_cuda_session(content)
    except BackendFailed as error:
        if device == "cuda":
            raise
        return on_cpu(str(error))
    why = "asked for" if device == "cuda" else "CUDA is there"
    return session, why, variant, why_variant, content


def _check_memory(bundle: Bundle, variant: Variant, most_bytes: int) -> None:
    needed = variant.estimate.row_bytes
    if needed > most_bytes:
        raise BundleRefused(
            bundle.directory,
            f"one image takes {needed / 2**20:,.0f} MiB of working memory;"
            f" max_image_memory_bytes allows {most_bytes / 2**20:,.0f} MiB",
        )


def _choose(bundle: Bundle, device: str, requested: str) -> tuple[Variant, str]:
    try:
        return choose_variant(bundle.variants, device, requested)
    except LookupError as error:
        raise BundleRefused(bundle.directory, str(error)) from error
