"""Tests of the batcher: which jobs share a batch, and what happens to jobs that cannot wait."""

import asyncio
import dataclasses
import gc
import threading
import time

import numpy as np
import pytest

from imagemint.engine.bundle import read_bundle
from imagemint.engine.captions import Captions
from imagemint.engine.errors import BackendFailed, DeadlinePassed, Draining, QueueFull
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import Run, draw_latents, draw_run_latents
from imagemint.engine.spec import Source, Truncation, TruncationKind
from imagemint.server.batching import Batcher, Conditions, Job, Priority
from imagemint.server.batching import batch as passes
from imagemint.server.batching.drain_rate import DrainRate

# Seconds beyond the timeout of a test: a test that waited this long would fail.
FOR_EVER_S = 1_000.0


def read_tags(backend, batch):
    """Returns the tags of the images of a batch."""
    return [int(tag) for tag in backend.batches[batch].z[:, 0]]


def read_queue_gauge(metrics):
    """Returns the value of the gauge of queued images."""
    labels = {"model": "dot", "version": "1"}
    return metrics.registry.get_sample_value("imagemint_queue_images", labels)


async def test_job_gets_its_own_images(new_batcher, new_job):
    """Each image is at its position, however jobs are split and mixed."""
    batcher = new_batcher(instances=2)
    jobs = [new_job(tag, count) for tag, count in ((1, 1), (2, 50), (3, 7), (4, 19))]
    for job in jobs:
        batcher.submit(job)
    await asyncio.gather(*(job.done for job in jobs))
    for tag, job in enumerate(jobs, start=1):
        expected = (tag * 50 + np.arange(job.count)) % 256
        assert job.images.ravel().tolist() == expected.tolist()


async def test_small_job_overtakes_large_one(backend, new_batcher, new_job, held):
    """A job of one image is in the next batch although a large job queued thousands before it."""
    batcher = new_batcher()
    await held(batcher)
    large, small = new_job(1, 5_000), new_job(2, 1)
    batcher.submit(large)
    batcher.submit(small)
    backend.step()
    await backend.begun()
    assert sorted(read_tags(backend, 0)) == [1] * 7 + [2]
    batcher.drop(large)


async def test_jobs_share_a_batch(backend, new_batcher, new_job, held):
    """Images of several callers are computed in one batch."""
    batcher = new_batcher(max_batch_images=64)
    await held(batcher)
    jobs = [new_job(tag, 3) for tag in range(1, 11)]
    for job in jobs:
        batcher.submit(job)
    backend.release()
    await asyncio.gather(*(job.done for job in jobs))
    assert backend.sizes == [30]
    assert read_tags(backend, 0) == [tag for tag in range(1, 11) for _ in range(3)]


async def test_calls_of_one_loop_iteration_share_a_batch(backend, new_batcher, new_job):
    """An idle instance wakes up once for all jobs of an iteration of the event loop."""
    batcher = new_batcher(max_batch_images=64)
    jobs = [new_job(tag, 1) for tag in range(1, 17)]
    for job in jobs:
        batcher.submit(job)
    await asyncio.gather(*(job.done for job in jobs))
    assert backend.sizes == [16]


async def test_batch_draws_latents_once(new_batcher, held, backend, monkeypatch):
    """The latents of all callers in a batch are drawn together. Given ones keep their position."""
    draws = []

    def counting(runs, *args, **options):
        draws.append(len(runs))
        return draw_run_latents(runs, *args, **options)

    monkeypatch.setattr(passes, "draw_run_latents", counting)
    batcher = new_batcher(max_batch_images=64)
    await held(batcher)
    given = np.float32([[5, 6]])
    jobs = [
        Job(1, (Run(seed, 3, 1),) if seed else given) for seed in (*range(1, 33), 0, *range(33, 64))
    ]
    for job in jobs:
        batcher.submit(job)
    draws.clear()
    backend.release()
    await asyncio.gather(*(job.done for job in jobs))
    assert draws == [63]
    (batch,) = backend.batches
    z = batch.z
    assert z[32].tolist() == [5, 6]
    assert z[33].tobytes() == draw_latents(33, 3, 1, 2).tobytes()


async def test_small_job_does_not_keep_its_batch_in_memory(backend, new_batcher, new_job, held):
    """A slow reader keeps only its own images in memory, not those of the whole batch."""
    batcher = new_batcher(max_batch_images=64)
    await held(batcher)
    small, large = new_job(1, 2), new_job(2, 40)
    for job in (small, large):
        batcher.submit(job)
    backend.release()
    await asyncio.gather(small.done, large.done)
    assert backend.sizes == [42]
    assert small.images.base is None


async def submit_and_wait(batcher, *jobs):
    """Submits jobs in one iteration of the loop and waits until all are complete."""
    for job in jobs:
        batcher.submit(job)
    await asyncio.gather(*(job.done for job in jobs))


async def test_single_caller_uses_all_cores(backend, new_batcher, new_job):
    """A caller that calls twice in a row gets all cores. Callers that share a batch get one."""
    batcher = new_batcher()
    await submit_and_wait(batcher, new_job(1, 3))
    assert backend.alone == 0  # others may follow the first call
    await submit_and_wait(batcher, new_job(1, 3))
    assert backend.alone == 1
    await submit_and_wait(batcher, new_job(2, 1), new_job(3, 1))
    await submit_and_wait(batcher, new_job(1, 3))
    assert backend.sizes == [3, 3, 2, 3]
    assert backend.alone == 1


async def test_model_never_runs_on_the_loop(backend, new_batcher, new_job, monkeypatch):
    """The event loop never computes a batch, because a model may be slow on some inputs."""
    threads = []
    compute = backend.run

    def noting(*inputs):
        threads.append(threading.current_thread())
        return compute(*inputs)

    monkeypatch.setattr(backend, "run", noting)
    batcher = new_batcher()
    await submit_and_wait(batcher, new_job(1, 1))
    await submit_and_wait(batcher, new_job(2, 1), new_job(3, 1))
    assert len(threads) == 2
    assert threading.current_thread() not in threads


async def test_real_model_respects_the_batch_limit(tiny_bundle, metrics, new_job):
    """Batches of a model that takes microseconds are also limited by `max_batch_images`."""
    bundle = read_bundle(tiny_bundle)
    backend = OnnxBackend(bundle, device="cpu")
    limits = {"instances": 2, "max_batch_images": 1, "max_queue_images": 100}
    batcher = Batcher(bundle.spec, 1, backend, metrics, **limits)
    runs = [(Run(seed, 0, 1),) for seed in range(8)]
    await submit_and_wait(batcher, *(Job(1, run, Conditions([0])) for run in runs))
    batcher.close()
    labels = {"model": "tiny", "version": "1"}
    value = metrics.registry.get_sample_value
    assert value("imagemint_batch_images_count", labels) == 8
    assert value("imagemint_batch_images_sum", labels) == 8


async def test_job_dropped_before_the_wake_is_harmless(backend, new_batcher, new_job):
    """A job that is dropped in the loop iteration of its submission causes no error."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    job = new_job(1, 1)
    batcher.submit(job)
    batcher.drop(job)
    after = new_job(2, 8)
    await asyncio.sleep(0)
    await submit_and_wait(batcher, after)
    assert not complaints
    assert backend.sizes == [8]


async def test_job_does_not_run_alone_while_another_runs(backend, new_batcher, new_job):
    """While an instance computes, the others use one core each."""
    batcher = new_batcher(instances=2)
    backend.hold()
    running, beside = new_job(1, 1), new_job(2, 1)
    batcher.submit(running)
    await backend.begun()
    before = backend.alone
    batcher.submit(beside)
    await backend.begun()
    assert backend.alone == before
    backend.release()
    await asyncio.gather(running.done, beside.done)


async def test_large_jobs_share_a_batch_evenly(backend, new_batcher, new_job, held):
    """Two large jobs get half a batch each, in one slice each."""
    batcher = new_batcher(max_batch_images=64)
    await held(batcher)
    jobs = [new_job(1, 1_000), new_job(2, 1_000)]
    for job in jobs:
        batcher.submit(job)
    backend.step()
    await backend.begun()
    assert read_tags(backend, 0) == [1] * 32 + [2] * 32
    for job in jobs:
        batcher.drop(job)


async def test_jobs_take_turns_beyond_a_batch(backend, new_batcher, new_job, held):
    """If more jobs wait than fit in a batch, each gets one image before any gets a second."""
    batcher = new_batcher(max_batch_images=4)
    await held(batcher)
    jobs = [new_job(tag, 2) for tag in range(1, 9)]
    for job in jobs:
        batcher.submit(job)
    backend.release()
    await asyncio.gather(*(job.done for job in jobs))
    assert [read_tags(backend, batch) for batch in range(4)] == 2 * [[1, 2, 3, 4], [5, 6, 7, 8]]


async def test_batches_respect_the_maximum(backend, new_batcher, new_job):
    """No batch exceeds the limit, whatever is queued."""
    batcher = new_batcher(instances=3, max_batch_images=5)
    jobs = [new_job(tag, 1 + 7 * tag) for tag in range(20)]
    for job in jobs:
        batcher.submit(job)
    await asyncio.gather(*(job.done for job in jobs))
    assert max(backend.sizes) <= 5
    assert sum(backend.sizes) == sum(job.count for job in jobs)


@pytest.mark.parametrize(("count", "shares"), [(64, [32, 32]), (15, [7, 8]), (8, [8])])
async def test_idle_instances_share_a_job(backend, new_batcher, new_job, count, shares):
    """A single job is split among idle instances unless the parts would be too small."""
    batcher = new_batcher(instances=2, max_batch_images=64)
    backend.hold()
    job = new_job(1, count)
    batcher.submit(job)
    await backend.begun(len(shares))
    assert sorted(backend.sizes) == shares
    backend.release()
    await job.done


@pytest.mark.parametrize(
    "case", [(1, 60, 60), (2, 60, 40), (3, 60, 30), (2, 9, 8), (2, 6, 6)], ids=str
)
async def test_batch_leaves_work_for_busy_instances(backend, new_batcher, new_job, case):
    """An idle instance does not take everything from those that will be idle soon."""
    instances, count, share = case
    batcher = new_batcher(instances=instances, max_batch_images=64)
    backend.hold()
    for running in range(1, instances + 1):
        batcher.submit(new_job(running, 1))
        await backend.begun()
    jobs = [new_job(100, 1) for _ in range(count)]
    for job in jobs:
        batcher.submit(job)
    backend.step()
    await backend.begun()
    assert backend.sizes == [1] * instances + [share]
    backend.release()
    await asyncio.gather(*(job.done for job in jobs))


async def test_expired_job_is_not_computed(backend, new_batcher, new_job, held, metrics):
    """Jobs whose deadline has passed are dropped, and the others are computed."""
    batcher = new_batcher()
    await held(batcher)
    late = [new_job(tag, 3, deadline=time.monotonic()) for tag in (1, 2)]
    timely = new_job(3, 2, deadline=time.monotonic() + FOR_EVER_S)
    for job in (late[0], timely, late[1]):
        batcher.submit(job)
    backend.release()
    await timely.done
    for job in late:
        with pytest.raises(DeadlinePassed):
            await job.done
    assert [read_tags(backend, batch) for batch in range(len(backend.batches))] == [[3, 3]]
    assert read_queue_gauge(metrics) == 0


async def test_dropped_job_frees_the_queue(backend, new_batcher, new_job, held, metrics):
    """Images of a caller that has left are not computed and free the queue at once."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    left, other = new_job(1, 10), new_job(2, 10)
    batcher.submit(left)
    assert read_queue_gauge(metrics) == 10
    batcher.drop(left)
    batcher.drop(left)
    assert read_queue_gauge(metrics) == 0
    assert left.done.cancelled()
    batcher.submit(other)
    backend.release()
    await other.done
    assert {tag for batch in range(len(backend.batches)) for tag in read_tags(backend, batch)} == {
        2
    }


async def test_started_job_is_dropped_after_its_batch(backend, new_batcher, new_job, held, metrics):
    """The current batch of a dropped job ends, and the rest of the job is not computed."""
    batcher = new_batcher()
    await held(batcher)
    job = new_job(1, 100)
    batcher.submit(job)
    backend.step()
    await backend.begun()
    batcher.drop(job)
    assert read_queue_gauge(metrics) == 0
    backend.release()
    after = new_job(2, 1)
    batcher.submit(after)
    await after.done
    assert backend.sizes == [8, 1]


async def test_full_queue_refuses_jobs(backend, new_batcher, new_job, held):
    """A job beyond the limit is refused. Queued jobs are not affected, and later there is room."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    accepted = new_job(1, 10)
    batcher.submit(accepted)
    with pytest.raises(QueueFull) as refused:
        batcher.submit(new_job(2, 1))
    assert refused.value.retry_delay_s == 1.0  # no rate is measured yet
    backend.release()
    await accepted.done
    batcher.submit(new_job(3, 10))


@pytest.mark.parametrize(("per_s", "delay_s"), [(4.0, 1.5), (1e9, 0.05), (1e-3, 10.0)])
async def test_retry_delay_follows_the_drain_rate(new_batcher, new_job, held, per_s, delay_s):
    """The delay is the number of excess images over the measured rate, within bounds."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    batcher.submit(new_job(1, 9))
    batcher._drain_rate.add(1_000, 0, round(1_000 * 1e9 / per_s))
    with pytest.raises(QueueFull) as refused:
        batcher.submit(new_job(2, 7))
    assert refused.value.retry_delay_s == pytest.approx(delay_s)


def test_rate_is_images_over_busy_time():
    """Parallel batches add up, idle time does not count, and old values fade."""
    rate = DrainRate()
    assert rate.per_s == 0
    rate.add(50, 0, 10**9)
    assert rate.per_s == pytest.approx(50)
    rate.add(50, 60 * 10**9, 61 * 10**9)
    assert rate.per_s == pytest.approx(50)
    for second in range(62, 90):  # two instances, each 100 images in the same second
        rate.add(100, (second - 1) * 10**9, second * 10**9)
        rate.add(100, (second - 1) * 10**9, second * 10**9)
    assert rate.per_s == pytest.approx(200, rel=1e-3)


async def test_submit_ahead_fills_half_of_the_queue(new_batcher, new_job, held):
    """Images that a stream reads ahead leave half of the queue to other jobs."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    assert batcher.submit_ahead(new_job(1, 5))
    assert not batcher.submit_ahead(new_job(2, 1))
    batcher.submit(new_job(3, 5))


async def test_failure_affects_one_batch(backend, new_batcher, new_job, held, metrics):
    """A failing batch fails its jobs, whose remaining images are dropped. The next batch works."""
    batcher = new_batcher()
    await held(batcher)
    broken, small, spared = new_job(1, 100), new_job(2, 1), new_job(3, 4)
    batcher.submit(broken)
    batcher.submit(small)
    backend.step()
    await backend.begun()
    batcher.submit(spared)
    backend.failure = RuntimeError("out of memory at 0xdeadbeef")
    backend.step()
    for job in (broken, small):
        with pytest.raises(BackendFailed) as failed:
            await job.done
        assert "0xdeadbeef" not in failed.value.message
        assert isinstance(failed.value.__cause__, RuntimeError)
    backend.failure = None
    backend.release()
    await spared.done
    assert read_tags(backend, -1) == [3, 3, 3, 3]
    assert read_queue_gauge(metrics) == 0


async def test_failed_job_is_counted_once(backend, new_batcher, new_job):
    """A job of which several batches fail is one failure."""
    batcher = new_batcher(instances=2, max_batch_images=64)
    backend.hold()
    job = new_job(1, 64)
    batcher.submit(job)
    await backend.begun(2)
    backend.failure = RuntimeError("out of memory")
    backend.release()
    with pytest.raises(BackendFailed):
        await job.done
    assert await asyncio.to_thread(batcher.close)
    assert batcher.statistics.copy_sums().fail.count == 1


async def test_wrong_shape_fails_the_batch(backend, new_batcher, new_job, monkeypatch):
    """A backend that returns too few images fails the batch and not the instance."""
    batcher = new_batcher()
    with monkeypatch.context() as patched:
        patched.setattr(backend, "_compute", lambda z, c, t: np.zeros((len(z) - 1, 1, 1, 1)))
        job = new_job(1, 3)
        batcher.submit(job)
        with pytest.raises(BackendFailed):
            await job.done
    after = new_job(2, 3)
    batcher.submit(after)
    await after.done


async def test_lack_of_memory_fails_the_job(new_batcher, new_job, monkeypatch):
    """A result that cannot be allocated fails its job and not the instance."""

    def fail(*_):
        raise MemoryError

    batcher = new_batcher()
    with monkeypatch.context() as patched:
        patched.setattr("imagemint.server.batching.batcher.allocate_images", fail)
        job = new_job(1, 100)
        batcher.submit(job)
        with pytest.raises(BackendFailed):
            await job.done
    after = new_job(2, 100)
    batcher.submit(after)
    await after.done


async def test_failure_of_a_dropped_job_is_silent(backend, new_batcher, new_job, held):
    """The event loop does not report an error of a job that is dropped."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    batcher = new_batcher()
    await held(batcher)
    job = new_job(1, 3, deadline=time.monotonic())
    batcher.submit(job)
    backend.release()
    await asyncio.wait({job.done})
    batcher.drop(job)
    del job
    gc.collect()
    assert not complaints


async def test_close_finishes_accepted_jobs(backend, new_batcher, new_job, held):
    """Queued jobs are computed before the instances end. New jobs are refused."""
    batcher = new_batcher()
    first = await held(batcher)
    jobs = [new_job(tag, 20) for tag in (1, 2)]
    for job in jobs:
        batcher.submit(job)
    assert not batcher.close(timeout_s=0)
    with pytest.raises(Draining):
        batcher.submit(new_job(3, 1))
    backend.release()
    assert await asyncio.to_thread(batcher.close)
    await asyncio.gather(first.done, *(job.done for job in jobs))


async def test_delay_waits_for_a_full_batch(backend, new_batcher, new_job):
    """With a delay, a batch with room waits for more jobs and runs as soon as it is full."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    jobs = [new_job(tag, 3) for tag in (1, 2)]
    for job in jobs:
        batcher.submit(job)
    # Two more fill the batch. If the first two had run at once, there would be three batches.
    filling = new_job(3, 2)
    batcher.submit(filling)
    await asyncio.gather(*(job.done for job in (*jobs, filling)))
    assert backend.sizes == [8]


async def test_later_job_ends_the_delay(backend, new_batcher, new_job):
    """An instance that waits for a full batch is notified of every job."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    first, filling = new_job(1, 3), new_job(2, 5)
    batcher.submit(first)
    await asyncio.sleep(0)  # wakes the instance
    while batcher._waking:  # noqa: ASYNC110 - an instance is a thread, and sets no event
        await asyncio.sleep(0.001)
    batcher.submit(filling)
    await asyncio.gather(first.done, filling.done)
    assert backend.sizes == [8]


async def test_delay_expires(backend, new_batcher, new_job):
    """A single job runs after its delay, even if no other job joins it."""
    batcher = new_batcher(batch_delay_s=0.001)
    job = new_job(1, 1)
    batcher.submit(job)
    await job.done
    assert backend.sizes == [1]


async def test_started_job_has_no_delay(backend, new_batcher, new_job):
    """The rest of a job that has started follows at once."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    job = new_job(1, 11)
    batcher.submit(job)
    await job.done
    assert backend.sizes == [8, 3]


async def test_close_ends_the_delay(backend, new_batcher, new_job):
    """After `close` no job can join, so none is waited for."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    job = new_job(1, 1)
    batcher.submit(job)
    assert await asyncio.to_thread(batcher.close)
    await job.done


async def test_high_job_has_no_delay(backend, new_batcher, new_job):
    """A HIGH job runs at once, together with the jobs that were waiting."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S)
    waiting, hasty = new_job(1, 2), new_job(2, 1, priority=Priority.HIGH)
    batcher.submit(waiting)
    batcher.submit(hasty)
    await asyncio.gather(waiting.done, hasty.done)
    assert backend.sizes == [3]


async def test_high_job_goes_first(backend, new_batcher, new_job, held, metrics):
    """A HIGH job goes before earlier jobs, which still get an eighth of each batch."""
    batcher = new_batcher()
    await held(batcher)
    normal, high = new_job(1, 100), new_job(2, 20, priority=Priority.HIGH)
    batcher.submit(normal)
    batcher.submit(high)
    backend.release()
    await high.done
    await normal.done
    assert [read_tags(backend, batch).count(2) for batch in range(4)] == [7, 7, 6, 0]
    labels = {"model": "dot", "version": "1", "priority": "high"}
    wait = metrics.registry.get_sample_value("imagemint_queue_wait_seconds_count", labels)
    assert wait == 1


async def test_full_queue_has_room_for_high(new_batcher, new_job, held):
    """An eighth beyond the limit is for HIGH jobs only."""
    batcher = new_batcher(max_queue_images=80)
    await held(batcher)
    batcher.submit(new_job(1, 80))
    with pytest.raises(QueueFull):
        batcher.submit(new_job(2, 1))
    batcher.submit(new_job(3, 10, priority=Priority.HIGH))
    with pytest.raises(QueueFull):
        batcher.submit(new_job(4, 1, priority=Priority.HIGH))


CUTS = ((3, [3]), (4, [4]), (7, [4, 3]), (9, [8, 1]), (31, [16, 8, 4, 3]))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut[0])
async def test_batches_have_preferred_sizes(backend, new_batcher, new_job, held, cut):
    """Each batch has the largest preferred size that the queue fills. The rest runs as it is."""
    batcher = new_batcher(max_batch_images=20, preferred_batch_images=[8, 4, 16])
    await held(batcher)
    count, sizes = cut
    job = new_job(1, count)
    batcher.submit(job)
    backend.release()
    await job.done
    assert backend.sizes == sizes


async def test_preferred_size_ends_the_delay(backend, new_batcher, new_job):
    """A queue that fills a preferred size does not wait for a full batch."""
    batcher = new_batcher(batch_delay_s=FOR_EVER_S, preferred_batch_images=[4])
    jobs = [new_job(tag, 2) for tag in (1, 2)]
    for job in jobs:
        batcher.submit(job)
    await asyncio.gather(*(job.done for job in jobs))
    assert backend.sizes == [4]


async def test_split_job_has_preferred_sizes(backend, new_batcher, new_job):
    """A job that is split among idle instances is also cut to preferred sizes."""
    batcher = new_batcher(instances=2, max_batch_images=64, preferred_batch_images=[32])
    backend.hold()
    job = new_job(1, 40)
    batcher.submit(job)
    await backend.begun(2)
    assert sorted(backend.sizes) == [8, 32]
    backend.release()
    await job.done


async def test_each_thread_opens_and_closes_its_instance(backend, new_batcher):
    """There are as many open instances as threads, from start to end."""
    batcher = new_batcher(instances=3)
    assert backend.opened == 3
    assert batcher.close()
    assert backend.opened == 0


async def test_failure_to_open_is_raised(backend, new_batcher, monkeypatch):
    """A device without memory for all instances raises in the constructor, and all are closed."""
    real = backend.open_instance

    def refuse():
        if backend.opened:
            raise BackendFailed("no room")
        return real()

    monkeypatch.setattr(backend, "open_instance", refuse)
    with pytest.raises(BackendFailed, match="no room"):
        new_batcher(instances=2)
    assert backend.opened == 0


async def test_failure_to_open_keeps_the_gauges(new_batcher, new_job, held, metrics, monkeypatch):
    """The gauges keep the values of the batcher that serves the version."""
    batcher = new_batcher()
    await held(batcher)
    job = new_job(1, 5)
    batcher.submit(job)
    with monkeypatch.context() as patched:
        patched.setattr(batcher._backend, "open_instance", None)
        with pytest.raises(TypeError):
            new_batcher(max_queue_images=7)
    assert read_queue_gauge(metrics) == 5
    batcher.drop(job)
    labels = {"model": "dot", "version": "1"}
    value = metrics.registry.get_sample_value
    assert value("imagemint_queue_limit_images", labels) == 10_000


async def test_classes_and_truncation_follow_their_images(backend, metrics, new_batcher, new_job):
    """Each row of a batch has the class and truncation of its job, and is counted by class."""
    styled = dataclasses.replace(
        new_batcher()._spec,
        name="styled",
        class_labels=("cat", "dog"),
        truncation=Truncation(TruncationKind.PSI, 0.0, 1.0),
    )
    batcher = new_batcher(styled, max_batch_images=64, batch_delay_s=FOR_EVER_S)
    first = new_job(1, 3, class_id=[0, 1, 1], psi=0.25)
    second = new_job(2, 2, class_id=[1, 0], psi=0.0)
    third = new_job(3, 59, class_id=[0] * 59, psi=1.0)
    for job in (first, second, third):
        batcher.submit(job)
    await asyncio.gather(first.done, second.done, third.done)
    (batch,) = backend.batches
    assert batch.z[:5, 0].tolist() == [1, 1, 1, 2, 2]
    assert batch.class_id[:5].tolist() == [0, 1, 1, 1, 0]
    assert batch.truncation.dtype == np.float32
    assert batch.truncation[:6].tolist() == [0.25, 0.25, 0.25, 0.0, 0.0, 1.0]
    counted = {
        sample.labels["class"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "imagemint_images_total"
    }
    assert counted == {"cat": 61.0, "dog": 3.0}


async def test_split_job_keeps_its_inputs(backend, new_batcher, new_job):
    """Each part of a job that is split into batches has the inputs of its own images."""
    spec = dataclasses.replace(
        new_batcher()._spec,
        name="all",
        class_labels=tuple("abcdefghijkl"),
        captions=Captions(("red",), 2, ("red",)),
        source=Source(1, 1, 1),
        truncation=Truncation(TruncationKind.PSI, 0.0, 1.0),
    )
    batcher = new_batcher(spec)
    numbers = np.arange(12)
    sources = numbers.astype(np.uint8).reshape(12, 1, 1, 1)
    job = new_job(1, 12, class_id=numbers.tolist(), psi=numbers.astype(np.float32), sources=sources)
    job.conditions = job.conditions._replace(tokens=np.stack([numbers, numbers], axis=1))
    batcher.submit(job)
    await job.done
    assert backend.sizes == [8, 4]
    for name in ("class_id", "tokens", "truncation", "source"):
        values = np.concatenate([getattr(batch, name) for batch in backend.batches])
        assert values.reshape(12, -1)[:, 0].tolist() == numbers.tolist()


async def test_times_of_a_job_are_recorded(new_batcher, new_job, metrics):
    """A job has its acceptance, start and end time, and its wait is observed once."""
    batcher = new_batcher(instances=2)
    job = new_job(1, 50)
    batcher.submit(job)
    await job.done
    assert 0 < job.accepted_ns <= job.started_ns < job.finished_ns
    assert job.inference_ns > 0
    labels = {"model": "dot", "version": "1"}
    values = metrics.registry.get_sample_value
    assert values("imagemint_queue_wait_seconds_count", labels | {"priority": "normal"}) == 1
    assert values("imagemint_batch_images_sum", labels) == 50
