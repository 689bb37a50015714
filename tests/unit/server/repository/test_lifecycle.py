"""Versions come and go: found, loaded, the default, unloaded, gone, without disturbing others."""

import asyncio
import errno
import gc
import shutil
import threading
import weakref

import numpy as np
import pytest
from held_backend import WAIT_S, HeldBackend
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundles import write_bundle, write_sums

from imagemint.engine.batch import Batch
from imagemint.engine.errors import (
    BackendFailed,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import latents
from imagemint.server.batching import Batcher, Conditions, Job
from imagemint.server.repository import ModelRepository, Policies, ServedBytes, State
from imagemint.server.telemetry.metrics import Metrics


def policies(general="all", pins=None, **own):
    """Policies as the settings spell them."""
    return Policies.parse(general, own, pins or {})


def states(repository, name="tiny"):
    """The state of each version of a model."""
    return {each.number: each.state for each in repository.model(name).versions.values()}


def reason(repository, number, name="tiny"):
    """What there is to say of a version."""
    return repository.model(name).versions[number].reason


def unloaded(repository):
    """Waits until what is leaving has left."""
    for thread in tuple(repository._lifecycle._unloading._leaving):
        thread.join(WAIT_S)
        assert not thread.is_alive()


def labels_of(repository, number):
    """Metrics that still speak of a version."""
    families = repository._lifecycle._metrics.registry.collect()
    samples = [sample for family in families for sample in family.samples]
    return {s.name for s in samples if s.labels.get("version") == str(number)}


def failures(repository, name="tiny"):
    """How often a version was refused."""
    value = repository._lifecycle._metrics.registry.get_sample_value
    return value("imagemint_model_load_failures_total", {"model": name}) or 0


def truncate(directory):
    """Cuts a bundle's model file in half."""
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_bytes(directory, seed):
    """Puts another bundle, in itself sound, in the place of one."""
    shutil.rmtree(directory)
    write_bundle(
        directory.parents[1], directory.parent.name, int(directory.name), weights_seed=seed
    )


def test_new_version_becomes_the_default(tmp_path, new_repository):
    """The old one still answers by name; who watches was told."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path)
    told = threading.Event()
    unwatch = repository.watch(told.set)
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    repository.refresh()
    assert repository.resolve("tiny").version == 2
    assert repository.resolve("tiny", "1").version == 1
    assert told.is_set()
    unwatch()


def test_new_model_is_found(tmp_path, new_repository):
    """Even in a repository that was empty; it is ready from then on."""
    repository = new_repository(tmp_path)
    assert not repository.ready
    write_bundle(tmp_path)
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    assert repository.ready


def test_what_did_not_change_is_not_touched(tmp_path, new_repository):
    """A look at the same files loads nothing again."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    served = repository.resolve("tiny")
    repository.refresh()
    assert repository.resolve("tiny") is served


def test_old_version_gives_its_memory_back(tmp_path, new_repository):
    """Behind latest:1 its backend is closed; no thread, label or reference of it stays."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=policies("latest:1"))
    old = repository.resolve("tiny")
    backend = old.backend
    threads = old.batcher._threads
    left = [weakref.ref(old), weakref.ref(old.batcher)]
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    repository.refresh()
    unloaded(repository)
    assert states(repository) == {1: State.UNLOADED, 2: State.READY}
    assert reason(repository, 1) == "version_policy is latest:1"
    with pytest.raises(VersionNotFound) as caught:
        repository.resolve("tiny", "1")
    assert caught.value.known == ("2",)
    assert backend._session is None
    assert not any(thread.is_alive() for thread in threads)
    assert labels_of(repository, 1) == set()
    assert "imagemint_model_info" in labels_of(repository, 2)
    del old, backend, threads
    gc.collect()
    assert [each() for each in left] == [None, None]


def test_calls_inside_finish_on_the_version_they_resolved(tmp_path, new_repository):
    """It is UNLOADING, takes nobody new, and goes when the last one has left."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=policies("latest:1"))
    old = repository.resolve("tiny")
    assert old.holds.take()
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    repository.refresh()
    assert states(repository) == {1: State.UNLOADING, 2: State.READY}
    assert not old.holds.take()
    old.stay()
    assert old.backend.run(Batch(latents(1, 0, 2, 8), np.zeros(2, np.int64))).shape == (2, 4, 6, 1)
    old.holds.give()
    unloaded(repository)
    assert states(repository) == {1: State.UNLOADED, 2: State.READY}


def test_grace_ends_the_wait_for_calls(tmp_path, new_repository):
    """Who is still inside then is told that the version was unloaded."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=policies("latest:1"), unload_grace_s=0.01)
    old = repository.resolve("tiny")
    assert old.holds.take()
    write_bundle(tmp_path, "tiny", 2)
    repository.refresh()
    unloaded(repository)
    assert old.backend._session is None
    with pytest.raises(ModelNotReady, match="version 1 was unloaded"):
        old.stay()


def test_removed_version_is_gone(tmp_path, new_repository):
    """From the list too, and with the last version the model."""
    write_bundle(tmp_path, "tiny", 1)
    write_bundle(tmp_path, "tiny", 2)
    repository = new_repository(tmp_path, unload_when_empty=True)
    shutil.rmtree(tmp_path / "tiny/2")
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    unloaded(repository)
    assert states(repository) == {1: State.READY}
    shutil.rmtree(tmp_path / "tiny")
    repository.refresh()
    unloaded(repository)
    assert repository.models == {}
    with pytest.raises(ModelNotFound):
        repository.resolve("tiny")
    value = repository._lifecycle._metrics.registry.get_sample_value
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) is None
    assert not repository.ready


def test_bad_bundle_takes_nobodys_place(tmp_path, new_repository):
    """Under latest:1 the newest that can be loaded serves on, until a good one comes."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=policies("latest:1"))
    served = repository.resolve("tiny")
    truncate(write_bundle(tmp_path, "tiny", 2))
    repository.refresh()
    assert states(repository) == {1: State.READY, 2: State.FAILED}
    assert "truncated or altered" in reason(repository, 2)
    assert repository.resolve("tiny") is served
    value = repository._lifecycle._metrics.registry.get_sample_value
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 1
    write_bundle(tmp_path, "tiny", 3)
    repository.refresh()
    unloaded(repository)
    assert states(repository) == {1: State.UNLOADED, 2: State.UNLOADED, 3: State.READY}
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 0


def test_older_version_stands_in_at_the_start(tmp_path, new_repository):
    """A limit counts those that serve, not those that were tried."""
    write_bundle(tmp_path, "tiny", 1)
    write_bundle(tmp_path, "tiny", 2)
    truncate(write_bundle(tmp_path, "tiny", 3))
    repository = new_repository(tmp_path, policies=policies("latest:1"))
    assert states(repository) == {1: State.UNLOADED, 2: State.READY, 3: State.FAILED}


def test_half_copied_version_is_tried_when_its_files_change(tmp_path, new_repository):
    """Refused while it lacks its sums, not tried at every look, and served once it is whole."""
    repository = new_repository(tmp_path)
    directory = write_bundle(tmp_path)
    (directory / "SHA256SUMS").unlink()
    for _ in range(3):
        repository.refresh()
        assert states(repository) == {1: State.FAILED}
        assert reason(repository, 1) == "SHA256SUMS is missing"
        assert failures(repository) == 1
    write_sums(directory)
    repository.refresh()
    assert states(repository) == {1: State.READY}
    assert reason(repository, 1) == ""


def test_changed_bytes_are_refused_beside_what_serves(tmp_path, new_repository):
    """The reason is told, the old pixels are served on, and it is not tried at every look."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    served = repository.resolve("tiny")
    replace_bytes(directory, seed=9)
    for _ in range(2):
        repository.refresh()
        assert repository.resolve("tiny") is served
        assert "version 1 is immutable" in reason(repository, 1)
        assert failures(repository) == 1
    assert states(repository) == {1: State.READY}
    replace_bytes(directory, seed=0)  # the right ones again
    repository.refresh()
    assert reason(repository, 1) == ""
    assert repository.resolve("tiny") is served


def test_broken_bytes_leave_what_serves(tmp_path, new_repository):
    """Whatever happens to its files, what is in memory goes on."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    truncate(directory)
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    assert "it still serves, but" in reason(repository, 1)


def test_changed_bytes_are_refused_after_an_absence(tmp_path, new_repository):
    """A number keeps its meaning although its directory was gone; the same bytes are welcome."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path, unload_when_empty=True)
    shutil.rmtree(directory)
    repository.refresh()
    unloaded(repository)
    write_bundle(tmp_path, weights_seed=9)
    repository.refresh()
    assert states(repository) == {1: State.FAILED}
    assert "version 1 is immutable" in reason(repository, 1)
    replace_bytes(directory, seed=0)
    repository.refresh()
    assert states(repository) == {1: State.READY}


def test_changed_bytes_are_accepted_when_told_so(tmp_path, new_repository):
    """Explicitly, once; from then on the new ones are what the number means. Labels follow."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path, wanted=["tiny"])
    old = repository.resolve("tiny")
    replace_bytes(directory, seed=9)
    with pytest.raises(LoadFailed, match="version 1 is immutable"):
        repository.load_model("tiny")
    assert repository.resolve("tiny") is old
    repository.load_model("tiny", accept_changed=True)
    new = repository.resolve("tiny")
    assert new.bundle.sha256 != old.bundle.sha256
    unloaded(repository)
    assert old.backend._session is None
    (info,) = repository._lifecycle._metrics.model_info.collect()[0].samples
    assert info.labels["bundle_sha256"] == new.bundle.sha256
    assert "imagemint_queue_images" in labels_of(repository, 1)
    repository.load_model("tiny")
    assert repository.resolve("tiny") is new


def test_version_that_cannot_be_remembered_is_refused(tmp_path, new_repository):
    """It does not serve, and nothing of it stays; it is told what happened."""
    write_bundle(tmp_path)

    class Full(ServedBytes):
        def add(self, name, version, sha256, *, accept=False):
            raise OSError(28, "no space left on device")

    before = set(threading.enumerate())
    repository = new_repository(tmp_path, served_bytes=Full())
    assert states(repository) == {1: State.FAILED}
    assert labels_of(repository, 1) == set()
    assert set(threading.enumerate()) <= before


def test_restart_accepts_changed_bytes(tmp_path, new_repository):
    """Only what this server has served binds it."""
    directory = write_bundle(tmp_path)
    new_repository(tmp_path)
    replace_bytes(directory, seed=9)
    assert states(new_repository(tmp_path)) == {1: State.READY}


def test_pinned_version_is_the_default(tmp_path, new_repository):
    """A newer one answers by name only, and the pin holds against the policy."""
    for version in (1, 2, 3):
        write_bundle(tmp_path, "tiny", version)
    repository = new_repository(tmp_path, policies=policies("latest:1", pins={"tiny": 2}))
    assert repository.resolve("tiny").version == 2
    assert repository.resolve("tiny", "3").version == 3
    assert states(repository) == {1: State.UNLOADED, 2: State.READY, 3: State.READY}


@pytest.mark.parametrize("present", [True, False])
def test_pinned_version_that_does_not_serve_has_no_stand_in(tmp_path, new_repository, present):
    """Refused or absent: who names no version is told why, the others still answer by name."""
    write_bundle(tmp_path, "tiny", 1)
    if present:
        truncate(write_bundle(tmp_path, "tiny", 2))
    repository = new_repository(tmp_path, policies=policies(pins={"tiny": 2}))
    why = "version 2: checksum mismatch" if present else "version 2, its default by"
    with pytest.raises(ModelNotReady, match=why):
        repository.resolve("tiny")
    assert repository.resolve("tiny", "1").version == 1


def test_named_versions_serve_alone(tmp_path, new_repository):
    """Of one model by its own policy, of the others by the general one."""
    for version in (1, 2, 3):
        write_bundle(tmp_path, "tiny", version)
        write_bundle(tmp_path, "other", version)
    repository = new_repository(tmp_path, policies=policies("latest:2", tiny="1,3"))
    unwanted = {number for number, s in states(repository).items() if s is State.UNLOADED}
    assert unwanted == {2}
    assert states(repository, "other")[1] is State.UNLOADED


def test_explicit_load_and_unload(tmp_path, new_repository):
    """Nothing is loaded but what was asked for; the rest is listed."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path, "other")
    repository = new_repository(tmp_path, wanted=["tiny"])
    assert states(repository, "other") == {1: State.UNLOADED}
    with pytest.raises(ModelNotFound) as caught:
        repository.resolve("other")
    assert caught.value.known == ("tiny",)
    repository.load_model("other")
    assert repository.resolve("other").version == 1
    write_bundle(tmp_path, "tiny", 2)
    repository.load_model("other")
    assert repository.resolve("tiny").version == 1, "only what is named is brought up to date"
    repository.unload_model("tiny")
    unloaded(repository)
    assert states(repository) == {1: State.UNLOADED, 2: State.UNLOADED}
    assert reason(repository, 1) == "not loaded"
    for call in (repository.load_model, repository.unload_model):
        with pytest.raises(ModelNotFound):
            call("nobody")


def test_explicit_load_tells_what_was_refused(tmp_path, new_repository):
    """It fails although an older version serves, and tries again although nothing changed."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, wanted=[])
    assert repository.ready, "nothing is meant to be loaded"
    truncate(write_bundle(tmp_path, "tiny", 2))
    for attempt in (1, 2):
        with pytest.raises(LoadFailed, match="version 2: checksum mismatch"):
            repository.load_model("tiny")
        assert failures(repository) == attempt
    assert repository.resolve("tiny").version == 1


def test_model_that_failed_to_load_is_not_wanted(tmp_path, new_repository):
    """An explicit load that fails leaves the server as ready as it was."""
    truncate(write_bundle(tmp_path))
    repository = new_repository(tmp_path, wanted=[])
    with pytest.raises(LoadFailed):
        repository.load_model("tiny")
    assert repository.ready


def test_star_wants_what_is_there_at_the_start(tmp_path, new_repository):
    """All of it, and nothing that comes later."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path, "other")
    repository = new_repository(tmp_path, wanted=["*"])
    write_bundle(tmp_path, "late")
    repository.refresh()
    assert [name for name in repository.models if repository.model(name).default_version] == [
        "other",
        "tiny",
    ]


def test_version_returns_while_it_leaves(tmp_path, new_repository):
    """Unloaded under a call and loaded again: two live at once, and the new one has the labels."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path, wanted=["tiny"])
    old = repository.resolve("tiny")
    assert old.holds.take()
    repository.unload_model("tiny")
    assert states(repository) == {1: State.UNLOADING}
    repository.load_model("tiny")
    new = repository.resolve("tiny")
    assert new is not old
    old.holds.give()
    unloaded(repository)
    assert repository.resolve("tiny") is new
    assert {"imagemint_queue_images", "imagemint_model_info"} <= labels_of(repository, 1)


def test_unreadable_folder_leaves_what_serves(tmp_path, new_repository, monkeypatch):
    """A disk that stutters is no reason to unload."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    listed = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == "tiny":
            raise OSError(5, "Input/output error")
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    monkeypatch.undo()
    shutil.move(tmp_path, tmp_path.with_name("away"))
    with pytest.raises(FileNotFoundError):
        repository.refresh()
    assert repository.resolve("tiny").version == 1


def serving_two(tmp_path, new_repository, **options):
    """A repository in `tmp_path/models` whose models `one` and `two` serve."""
    for name in ("one", "two"):
        write_bundle(tmp_path / "models", name)
    return new_repository(tmp_path / "models", **options)


def lost(repository):
    """What the metric says."""
    return repository._metrics.registry.get_sample_value("imagemint_repository_lost")


@pytest.mark.parametrize("left", ["an empty folder", "nothing", "a file"])
def test_lost_mount_unloads_nothing(tmp_path, new_repository, left):
    """The whole repository gone at once: what serves goes on, and the metric tells."""
    repository = serving_two(tmp_path, new_repository)
    served = repository.resolve("one")
    shutil.move(tmp_path / "models", tmp_path / "away")
    if left == "an empty folder":
        (tmp_path / "models").mkdir()
    elif left == "a file":
        (tmp_path / "models").write_text("")
    with pytest.raises(OSError):  # noqa: PT011 - of several kinds
        repository.refresh()
    assert repository.resolve("one") is served
    assert lost(repository) == 1
    if left == "an empty folder":
        (tmp_path / "models").rmdir()
    elif left == "a file":
        (tmp_path / "models").unlink()
    shutil.move(tmp_path / "away", tmp_path / "models")
    repository.refresh()
    assert repository.resolve("one") is served
    assert lost(repository) == 0


def test_lost_mount_of_one_model_unloads_nothing(tmp_path, new_repository, caplog):
    """Its empty folder is no removal; without the folder it is one."""
    repository = serving_two(tmp_path, new_repository)
    served = repository.resolve("one")
    shutil.rmtree(tmp_path / "models/one/1")
    repository.refresh()
    assert repository.resolve("one") is served
    assert "as if a mount were lost" in caplog.text
    (tmp_path / "models/one").rmdir()
    repository.refresh()
    unloaded(repository)
    assert list(repository.models) == ["two"]


def test_emptied_repository_unloads_when_told_so(tmp_path, new_repository):
    """`unload_when_empty` takes an empty folder at its word."""
    repository = serving_two(tmp_path, new_repository, unload_when_empty=True)
    shutil.rmtree(tmp_path / "models")
    (tmp_path / "models").mkdir()
    repository.refresh()
    unloaded(repository)
    assert repository.models == {}


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        BackendFailed("CUDA out of memory"),
    ],
)
def test_passing_cause_is_tried_again(tmp_path, new_repository, monkeypatch, cause):
    """After a pause that grows, although no file has changed; a success ends that."""
    write_bundle(tmp_path)
    failing = [cause, cause]

    def open_backend(bundle):
        if failing:
            raise failing.pop()
        return OnnxBackend(bundle, device="cpu")

    now = [1000.0]
    monkeypatch.setattr("imagemint.server.repository.lifecycle.time.monotonic", lambda: now[0])
    repository = new_repository(tmp_path, open_backend=open_backend)
    assert "next attempt in 5 s" in reason(repository, 1)
    repository.refresh()
    assert len(failing) == 1  # not yet
    now[0] += 6
    repository.refresh()
    assert "next attempt in 10 s" in reason(repository, 1)
    now[0] += 11
    repository.retry()
    repository.refresh()
    assert states(repository) == {1: State.READY}
    assert reason(repository, 1) == ""


def test_lasting_cause_is_not_tried_again(tmp_path, new_repository, monkeypatch):
    """What a bundle is does not change by waiting."""
    truncate(write_bundle(tmp_path))
    now = [1000.0]
    monkeypatch.setattr("imagemint.server.repository.lifecycle.time.monotonic", lambda: now[0])
    repository = new_repository(tmp_path)
    now[0] += 10**6
    repository.retry()
    repository.refresh()
    assert failures(repository) == 1


def test_load_goes_on_beside_what_serves(tmp_path, new_repository):
    """While a version is opened the others answer, and it is listed as LOADING."""
    write_bundle(tmp_path, "tiny", 1)
    entered, go_on = threading.Event(), threading.Event()

    def open_backend(bundle):
        if bundle.version == 2:
            entered.set()
            assert go_on.wait(WAIT_S)
        return OnnxBackend(bundle, device="cpu")

    repository = new_repository(tmp_path, open_backend=open_backend)
    write_bundle(tmp_path, "tiny", 2)
    refreshing = threading.Thread(target=repository.refresh)
    refreshing.start()
    assert entered.wait(WAIT_S)
    assert states(repository) == {1: State.READY, 2: State.LOADING}
    assert repository.resolve("tiny").version == 1
    with pytest.raises(ModelNotReady, match="still loading"):
        repository.resolve("tiny", "2")
    go_on.set()
    refreshing.join(WAIT_S)
    assert repository.resolve("tiny").version == 2


def test_close_gives_up_what_is_being_loaded(tmp_path, new_repository):
    """What was opened meanwhile is closed again."""
    write_bundle(tmp_path)
    entered, go_on = threading.Event(), threading.Event()
    opened = []

    def open_backend(bundle):
        entered.set()
        assert go_on.wait(WAIT_S)
        opened.append(HeldBackend(OnnxBackend(bundle, device="cpu").run))
        return opened[0]

    repository = new_repository(tmp_path, load=False, open_backend=open_backend)
    loading = threading.Thread(target=repository.load)
    loading.start()
    assert entered.wait(WAIT_S)
    repository.close(0.01)
    go_on.set()
    loading.join(WAIT_S)
    repository._threads.close(WAIT_S)
    assert opened[0].closed
    assert not repository.ready


def test_close_cuts_the_grace_short(tmp_path, new_repository):
    """A server that ends does not wait for a version that was leaving."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path, wanted=["tiny"], unload_grace_s=WAIT_S)
    old = repository.resolve("tiny")
    assert old.holds.take()
    repository.unload_model("tiny")
    repository.close()
    assert old.backend._session is None


@settings(max_examples=20)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), before=st.integers(0, 12))
def test_unload_during_batches_in_flight_loses_nothing(tmp_path_factory, counts, before):
    """Whatever is inside when a version is taken away is computed whole, and right."""
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory)

    async def run():
        repository, backend = _held_repository(directory)
        served = repository.resolve("tiny")
        backend.hold()
        jobs = []
        for place, count in enumerate(counts):
            if place == before:
                backend.step()  # some of it is under way already
            assert served.holds.take()
            jobs.append(
                Job(
                    count,
                    latents(place, 0, count, 8),
                    Conditions([i % 10 for i in range(count)]),
                )
            )
            served.batcher.submit(jobs[-1])
        repository.unload_model("tiny")
        with pytest.raises(ModelNotFound):
            repository.resolve("tiny")
        backend.release()
        for place, job in enumerate(jobs):
            await job.done
            served.holds.give()
            classes = np.int64(job.conditions.class_id)
            alone = backend._compute(Batch(latents(place, 0, job.count, 8), classes))
            assert job.images.tobytes() == alone.tobytes()
        await asyncio.to_thread(unloaded, repository)
        assert backend.closed
        repository.close()

    asyncio.run(run())


def _held_repository(directory):
    metrics, backends = Metrics(), []

    def open_backend(bundle):
        backends.append(HeldBackend(OnnxBackend(bundle, device="cpu").run))
        return backends[0]

    repository = ModelRepository(
        directory,
        open_backend,
        lambda bundle, backend: Batcher(
            bundle.spec,
            bundle.version,
            backend,
            metrics,
            instances=2,
            max_batch_images=8,
            max_queue_images=4_096,
        ),
        metrics,
        max_bundle_bytes=2**20,
        max_images=100,
        max_response_bytes=2**20,
        wanted=["tiny"],
    )
    repository.load()
    return repository, backends[0]
