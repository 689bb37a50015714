"""Tests of the life cycle of versions: loading, the default version, unloading and failures."""

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
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import (
    BackendFailed,
    BundleRefused,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.server.batching import Batcher, Conditions, Job
from imagemint.server.repository import (
    LocalDirectory,
    ModelRepository,
    Policies,
    ServedDigests,
    State,
    loading,
    model_control,
)
from imagemint.server.repository import repository as repository_module
from imagemint.server.repository.snapshot import Catalogue
from imagemint.server.repository.versions import Version
from imagemint.server.telemetry.metrics import Metrics


def parse_policies(general="all", pins=None, **own):
    """Returns policies as they are written in the settings."""
    return Policies.parse(general, own, pins or {})


def read_states(repository, name="tiny"):
    """Returns the state of each version of a model."""
    return {
        version.number: version.state for version in repository.get_model(name).versions.values()
    }


def read_reason(repository, number, name="tiny"):
    """Returns the reason of a version's state."""
    return repository.get_model(name).versions[number].reason


def wait_for_unloads(repository):
    """Waits until versions that are unloading are unloaded, and their threads refer to nothing."""
    for thread in threading.enumerate():
        work = getattr(thread, "_target", None)
        if getattr(work, "__self__", None) is repository._lifecycle._unloading:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def list_metrics_of(repository, number):
    """Returns the names of metrics that have samples of a version."""
    families = repository._lifecycle._metrics.registry.collect()
    samples = [sample for family in families for sample in family.samples]
    return {s.name for s in samples if s.labels.get("version") == str(number)}


def count_failures(repository, name="tiny"):
    """Returns how often a version was refused."""
    value = repository._lifecycle._metrics.registry.get_sample_value
    return value("imagemint_model_load_failures_total", {"model": name}) or 0


def truncate(directory):
    """Truncates a bundle's model file to half."""
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_bytes(directory, seed):
    """Replaces a bundle by another valid one."""
    shutil.rmtree(directory)
    write_bundle(
        directory.parents[1], directory.parent.name, int(directory.name), weights_seed=seed
    )


def test_new_version_becomes_the_default(tmp_path, new_repository):
    """The old version still answers by number, and watchers are notified."""
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
    """A new model also makes a repository ready that was empty."""
    repository = new_repository(tmp_path)
    assert not repository.ready
    write_bundle(tmp_path)
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    assert repository.ready


def test_unchanged_version_is_not_reloaded(tmp_path, new_repository):
    """A refresh without changes of files loads nothing."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    served = repository.resolve("tiny")
    repository.refresh()
    assert repository.resolve("tiny") is served


def test_failed_unload_is_logged(tmp_path, new_repository, monkeypatch, caplog):
    """The log does not say that the version is unloaded."""

    def fail(_):
        raise RuntimeError("the device hangs")

    caplog.set_level("INFO")
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, wanted=["tiny"])
    served = repository.resolve("tiny")
    with monkeypatch.context() as patched:
        patched.setattr("imagemint.server.repository.unloading.close", fail)
        repository.unload_model("tiny")
        wait_for_unloads(repository)
    assert "tiny@1 failed to unload" in caplog.text
    assert "unloaded tiny@1" not in caplog.text
    assert served.batcher.close(WAIT_S)


def test_unloaded_version_frees_its_memory(tmp_path, new_repository):
    """The backend of the old version is closed, and no thread, label or reference remains."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=parse_policies("latest:1"))
    old = repository.resolve("tiny")
    backend = old.backend
    threads = old.batcher._threads
    left = [weakref.ref(old), weakref.ref(old.batcher)]
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    repository.refresh()
    wait_for_unloads(repository)
    assert read_states(repository) == {1: State.UNLOADED, 2: State.READY}
    assert read_reason(repository, 1) == "version_policy is latest:1"
    with pytest.raises(VersionNotFound) as caught:
        repository.resolve("tiny", "1")
    assert caught.value.known == ("2",)
    assert backend._session is None
    assert not any(thread.is_alive() for thread in threads)
    assert list_metrics_of(repository, 1) == set()
    assert "imagemint_model_info" in list_metrics_of(repository, 2)
    del old, backend, threads
    gc.collect()
    assert [each() for each in left] == [None, None]


def test_running_calls_finish_on_their_version(tmp_path, new_repository):
    """The version is UNLOADING, accepts no calls, and is unloaded after the last one."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=parse_policies("latest:1"))
    old = repository.resolve("tiny")
    assert old.holds.take()
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    repository.refresh()
    assert read_states(repository) == {1: State.UNLOADING, 2: State.READY}
    assert not old.holds.take()
    old.stay()
    assert old.backend.run(Batch(draw_latents(1, 0, 2, 8), np.zeros(2, np.int64))).shape == (
        2,
        4,
        6,
        1,
    )
    old.holds.give()
    wait_for_unloads(repository)
    assert read_states(repository) == {1: State.UNLOADED, 2: State.READY}


def test_grace_limits_the_wait_for_calls(tmp_path, new_repository):
    """After the grace, a call that still runs gets an error that the version was unloaded."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=parse_policies("latest:1"), unload_grace_s=0.01)
    old = repository.resolve("tiny")
    assert old.holds.take()
    write_bundle(tmp_path, "tiny", 2)
    repository.refresh()
    wait_for_unloads(repository)
    assert old.backend._session is None
    with pytest.raises(ModelNotReady, match=r"version 1 of .* was unloaded"):
        old.stay()


def test_removed_version_disappears(tmp_path, new_repository):
    """The version leaves the list, and the model leaves it with its last version."""
    write_bundle(tmp_path, "tiny", 1)
    write_bundle(tmp_path, "tiny", 2)
    repository = new_repository(tmp_path, unload_when_empty=True)
    shutil.rmtree(tmp_path / "tiny/2")
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    wait_for_unloads(repository)
    assert read_states(repository) == {1: State.READY}
    shutil.rmtree(tmp_path / "tiny")
    repository.refresh()
    wait_for_unloads(repository)
    assert repository.models == {}
    with pytest.raises(ModelNotFound):
        repository.resolve("tiny")
    value = repository._lifecycle._metrics.registry.get_sample_value
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) is None
    assert not repository.ready


def test_invalid_bundle_replaces_no_version(tmp_path, new_repository):
    """With latest:1 the newest version that can be loaded serves until a valid one comes."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, policies=parse_policies("latest:1"))
    served = repository.resolve("tiny")
    truncate(write_bundle(tmp_path, "tiny", 2))
    repository.refresh()
    assert read_states(repository) == {1: State.READY, 2: State.FAILED}
    assert "truncated or altered" in read_reason(repository, 2)
    assert repository.resolve("tiny") is served
    value = repository._lifecycle._metrics.registry.get_sample_value
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 1
    write_bundle(tmp_path, "tiny", 3)
    repository.refresh()
    wait_for_unloads(repository)
    assert read_states(repository) == {1: State.UNLOADED, 2: State.UNLOADED, 3: State.READY}
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 0


def test_older_version_replaces_an_invalid_one_at_start(tmp_path, new_repository):
    """The limit of a policy counts versions that serve, not attempts."""
    write_bundle(tmp_path, "tiny", 1)
    write_bundle(tmp_path, "tiny", 2)
    truncate(write_bundle(tmp_path, "tiny", 3))
    repository = new_repository(tmp_path, policies=parse_policies("latest:1"))
    assert read_states(repository) == {1: State.UNLOADED, 2: State.READY, 3: State.FAILED}


def test_incomplete_version_is_retried_after_a_change(tmp_path, new_repository):
    """A version without its checksums is refused. It is loaded when its files have changed."""
    repository = new_repository(tmp_path)
    directory = write_bundle(tmp_path)
    (directory / "SHA256SUMS").unlink()
    for _ in range(3):
        repository.refresh()
        assert read_states(repository) == {1: State.FAILED}
        assert read_reason(repository, 1) == "SHA256SUMS is missing"
        assert count_failures(repository) == 1
    write_sums(directory)
    repository.refresh()
    assert read_states(repository) == {1: State.READY}
    assert read_reason(repository, 1) == ""


def test_changed_bytes_of_a_served_version_are_refused(tmp_path, new_repository):
    """The reason is reported, the old version serves on, and the new one is not retried."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    served = repository.resolve("tiny")
    replace_bytes(directory, seed=9)
    for _ in range(2):
        repository.refresh()
        assert repository.resolve("tiny") is served
        assert "version 1 is immutable" in read_reason(repository, 1)
        assert count_failures(repository) == 1
    assert read_states(repository) == {1: State.READY}
    replace_bytes(directory, seed=0)  # the original ones
    repository.refresh()
    assert read_reason(repository, 1) == ""
    assert repository.resolve("tiny") is served


def test_broken_files_do_not_affect_a_served_version(tmp_path, new_repository):
    """The version in memory serves on, whatever happens to its files, and operators are told."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path)
    value = repository._lifecycle._metrics.registry.get_sample_value
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 0
    truncate(directory)
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    assert "it still serves, but" in read_reason(repository, 1)
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 1
    replace_bytes(directory, seed=0)  # the original ones
    repository.refresh()
    assert value("imagemint_model_failed_versions", {"model": "tiny"}) == 0


def test_changed_bytes_are_refused_after_a_removal(tmp_path, new_repository):
    """A number keeps its digest although its directory was removed. Equal bytes are accepted."""
    directory = write_bundle(tmp_path)
    repository = new_repository(tmp_path, unload_when_empty=True)
    shutil.rmtree(directory)
    repository.refresh()
    wait_for_unloads(repository)
    write_bundle(tmp_path, weights_seed=9)
    repository.refresh()
    assert read_states(repository) == {1: State.FAILED}
    assert "version 1 is immutable" in read_reason(repository, 1)
    replace_bytes(directory, seed=0)
    repository.refresh()
    assert read_states(repository) == {1: State.READY}


def test_changed_bytes_are_accepted_explicitly(tmp_path, new_repository):
    """An explicit load accepts the new bytes for this number, and metrics follow."""
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
    wait_for_unloads(repository)
    assert old.backend._session is None
    (info,) = repository._lifecycle._metrics.model_info.collect()[0].samples
    assert info.labels["bundle_sha256"] == new.bundle.sha256
    assert "imagemint_queue_images" in list_metrics_of(repository, 1)
    repository.load_model("tiny")
    assert repository.resolve("tiny") is new


def test_version_that_cannot_be_recorded_is_refused(tmp_path, new_repository):
    """If its digest cannot be recorded, the version does not serve and leaves nothing behind."""
    write_bundle(tmp_path, "unrecorded")

    class Full(ServedDigests):
        def add(self, name, version, sha256, *, accept=False):
            raise OSError(28, "no space left on device")

    repository = new_repository(tmp_path, served_digests=Full())
    assert read_states(repository, "unrecorded") == {1: State.FAILED}
    assert list_metrics_of(repository, 1) == set()
    # Servers of other tests in this process have threads of their own.
    assert not [each for each in threading.enumerate() if each.name.startswith("unrecorded-")]


def test_restart_accepts_changed_bytes(tmp_path, new_repository):
    """Only digests that this process has served are binding."""
    directory = write_bundle(tmp_path)
    new_repository(tmp_path)
    replace_bytes(directory, seed=9)
    assert read_states(new_repository(tmp_path)) == {1: State.READY}


class PassingTrials:
    """Trials in which every bundle passes.

    Args:
        sha256: the digest of the bytes that they saw; None for those on the disk.
    """

    def __init__(self, sha256=None):
        self._sha256 = sha256

    def run(self, directory, *_):
        """Returns the digest, and no findings."""
        self.try_out(directory)
        return self._sha256 or read_bundle(directory).sha256, None

    def try_out(self, directory):
        """Does nothing."""

    def close(self):
        """Does nothing."""


class HeldTrials(PassingTrials):
    """Trials that last until the test lets them end."""

    def __init__(self, failure=None):
        super().__init__()
        self._failure = failure
        self.entered, self.go_on = threading.Event(), threading.Event()

    def try_out(self, directory):
        """Waits, and raises the failure if there is one."""
        self.entered.set()
        assert self.go_on.wait(WAIT_S)
        if self._failure:
            raise BundleRefused(directory, self._failure)


def test_bundle_that_changes_after_its_trial_is_refused(tmp_path, new_repository, monkeypatch):
    """The server does not load bytes that passed no trial, and tries again later."""
    monkeypatch.setattr(loading, "is_plain", lambda _: False)
    write_bundle(tmp_path)
    repository = new_repository(tmp_path, trials=PassingTrials("00" * 32))
    assert read_states(repository) == {1: State.FAILED}
    assert "changed while it was being loaded; next attempt" in read_reason(repository, 1)


def test_version_that_needs_a_trial_loads_beside_a_plain_one(tmp_path, new_repository, monkeypatch):
    """A version that needs no trial does not prevent the trial of another version."""
    monkeypatch.setattr(loading, "is_plain", lambda bundle: bundle.version == 1)
    for version in (1, 2):
        write_bundle(tmp_path, "tiny", version)
    repository = new_repository(tmp_path, trials=PassingTrials())
    assert read_states(repository) == {1: State.READY, 2: State.READY}


@pytest.fixture
def start(tmp_path, new_repository, monkeypatch):
    """A function that starts to load version 1, which serves soon, and 2, which needs a trial.

    It returns the repository and its thread.
    """
    monkeypatch.setattr(loading, "is_plain", lambda bundle: bundle.version == 1)
    for version in (1, 2):
        write_bundle(tmp_path, "tiny", version)

    def load(trials):
        repository = new_repository(tmp_path, load=False, trials=trials)
        served = threading.Event()
        repository.watch(lambda: served.set() if repository.is_serving else None)
        loading = threading.Thread(target=repository.load)
        loading.start()
        assert served.wait(WAIT_S)
        assert trials.entered.wait(WAIT_S)
        assert read_states(repository) == {1: State.READY, 2: State.LOADING}
        return repository, loading

    return load


def read_serving(repository, name="tiny"):
    """Returns the metric that is 1 if a model has a default version."""
    value = repository._lifecycle._metrics.registry.get_sample_value
    return value("imagemint_model_serving", {"model": name})


@pytest.mark.parametrize(("failure", "default"), [(None, 2), ("it is broken", 1)])
def test_start_waits_for_the_newest_version(start, failure, default):
    """A server that restarts does not answer with an older version than before."""
    trials = HeldTrials(failure)
    repository, loading = start(trials)
    assert repository.resolve("tiny", "1").version == 1
    with pytest.raises(ModelNotReady, match="tiny' is not ready: its newest version is still load"):
        repository.resolve("tiny")
    assert read_serving(repository) == 0
    trials.go_on.set()
    loading.join(WAIT_S)
    assert repository.resolve("tiny").version == default
    assert read_serving(repository) == 1


def test_end_of_the_wait_admits_an_older_version(start):
    """A slow version does not keep its model from serving for ever."""
    trials = HeldTrials()
    repository, loading = start(trials)
    changes = []
    repository.watch(lambda: changes.append(repository.get_model("tiny").default_version))
    repository.end_wait()
    assert [change.version for change in changes] == [1]
    assert repository.resolve("tiny").version == 1
    assert read_serving(repository) == 1
    trials.go_on.set()
    loading.join(WAIT_S)
    assert repository.resolve("tiny").version == 2


def test_default_stays_while_a_newer_version_appears_at_the_start(tmp_path, metrics):
    """A model that has a default version does not lose it, even before the start is over."""
    catalogue, served = Catalogue(metrics, {}), object()
    catalogue.put("tiny", Version(1, tmp_path, State.READY, served=served))
    catalogue.put("tiny", Version(2, tmp_path))
    assert catalogue.resolve("tiny", "") is served
    catalogue.put("tiny", Version(2, tmp_path, State.LOADING, attempts=1))
    assert catalogue.resolve("tiny", "") is served


def test_pinned_version_is_the_default(tmp_path, new_repository):
    """A newer version answers by number only, and the pin overrides the policy."""
    for version in (1, 2, 3):
        write_bundle(tmp_path, "tiny", version)
    repository = new_repository(tmp_path, policies=parse_policies("latest:1", pins={"tiny": 2}))
    assert repository.resolve("tiny").version == 2
    assert repository.resolve("tiny", "3").version == 3
    assert read_states(repository) == {1: State.UNLOADED, 2: State.READY, 3: State.READY}


@pytest.mark.parametrize("present", [True, False])
def test_pinned_version_has_no_replacement(tmp_path, new_repository, present):
    """A missing or invalid pinned version is an error for calls without a version."""
    write_bundle(tmp_path, "tiny", 1)
    if present:
        truncate(write_bundle(tmp_path, "tiny", 2))
    repository = new_repository(tmp_path, policies=parse_policies(pins={"tiny": 2}))
    why = "version 2: checksum mismatch" if present else "version 2, its default by"
    with pytest.raises(ModelNotReady, match=why):
        repository.resolve("tiny")
    assert repository.resolve("tiny", "1").version == 1


def test_listed_versions_serve(tmp_path, new_repository):
    """One model has its own policy, and the others have the general one."""
    for version in (1, 2, 3):
        write_bundle(tmp_path, "tiny", version)
        write_bundle(tmp_path, "other", version)
    repository = new_repository(tmp_path, policies=parse_policies("latest:2", tiny="1,3"))
    unwanted = {number for number, s in read_states(repository).items() if s is State.UNLOADED}
    assert unwanted == {2}
    assert read_states(repository, "other")[1] is State.UNLOADED


def test_explicit_load_and_unload(tmp_path, new_repository):
    """Only requested models are loaded, and the others are listed."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path, "other")
    repository = new_repository(tmp_path, wanted=["tiny"])
    assert read_states(repository, "other") == {1: State.UNLOADED}
    with pytest.raises(ModelNotFound) as caught:
        repository.resolve("other")
    assert caught.value.known == ("tiny",)
    repository.load_model("other")
    assert repository.resolve("other").version == 1
    write_bundle(tmp_path, "tiny", 2)
    repository.load_model("other")
    assert repository.resolve("tiny").version == 1, "only what is named is brought up to date"
    repository.unload_model("tiny")
    wait_for_unloads(repository)
    assert read_states(repository) == {1: State.UNLOADED, 2: State.UNLOADED}
    assert read_reason(repository, 1) == "not loaded"
    for call in (repository.load_model, repository.unload_model):
        with pytest.raises(ModelNotFound):
            call("nobody")


def test_explicit_load_reports_a_refused_version(tmp_path, new_repository):
    """The load fails although an older version serves. A second load tries again."""
    write_bundle(tmp_path, "tiny", 1)
    repository = new_repository(tmp_path, wanted=[])
    assert repository.ready, "nothing is meant to be loaded"
    truncate(write_bundle(tmp_path, "tiny", 2))
    for attempt in (1, 2):
        with pytest.raises(LoadFailed, match="version 2: checksum mismatch"):
            repository.load_model("tiny")
        assert count_failures(repository) == attempt
    assert repository.resolve("tiny").version == 1


def test_failed_model_is_not_required(tmp_path, new_repository):
    """An explicit load that fails does not change the readiness of the server."""
    truncate(write_bundle(tmp_path))
    repository = new_repository(tmp_path, wanted=[])
    with pytest.raises(LoadFailed):
        repository.load_model("tiny")
    assert repository.ready


def test_star_loads_the_models_of_the_start(tmp_path, new_repository):
    """A star loads all models that exist at the start, and none that comes later."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path, "other")
    repository = new_repository(tmp_path, wanted=["*"])
    write_bundle(tmp_path, "late")
    repository.refresh()
    assert [name for name in repository.models if repository.get_model(name).default_version] == [
        "other",
        "tiny",
    ]


def test_unload_keeps_the_metrics_of_a_reloaded_version(tmp_path, new_repository, metrics):
    """A version that is unloaded while its number loads again keeps the gauges of the new one."""
    held = []

    def open_batcher(bundle, backend):
        limits = {"instances": 1, "max_batch_images": 8, "max_queue_images": 64}
        batcher = Batcher(bundle.spec, bundle.version, backend, metrics, **limits)
        for old in held:
            old.holds.give()
            wait_for_unloads(repository)
        return batcher

    write_bundle(tmp_path)
    repository = new_repository(
        tmp_path, open_batcher=open_batcher, metrics=metrics, wanted=["tiny"]
    )
    old = repository.resolve("tiny")
    assert old.holds.take()
    held.append(old)
    repository.unload_model("tiny")
    repository.load_model("tiny")
    labels = {"model": "tiny", "version": "1"}
    assert metrics.registry.get_sample_value("imagemint_queue_limit_images", labels) == 64


def test_failed_replacement_leaves_no_metrics(tmp_path, new_repository):
    """A version whose replacement could not be opened loses its metrics when it is unloaded."""
    directory = write_bundle(tmp_path)
    failures = []

    def open_backend(bundle):
        if failures:
            raise failures[0]
        return OnnxBackend(bundle, device="cpu")

    repository = new_repository(tmp_path, open_backend=open_backend, wanted=["tiny"])
    replace_bytes(directory, seed=2)
    failures.append(RuntimeError("no memory"))
    with pytest.raises(LoadFailed):
        repository.load_model("tiny", accept_changed=True)
    repository.unload_model("tiny")
    wait_for_unloads(repository)
    assert list_metrics_of(repository, 1) == set()


def test_version_can_be_reloaded_while_it_unloads(tmp_path, new_repository):
    """Two instances of it live at once, and the metrics belong to the new one."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path, wanted=["tiny"])
    old = repository.resolve("tiny")
    assert old.holds.take()
    repository.unload_model("tiny")
    assert read_states(repository) == {1: State.UNLOADING}
    repository.load_model("tiny")
    new = repository.resolve("tiny")
    assert new is not old
    old.holds.give()
    wait_for_unloads(repository)
    assert repository.resolve("tiny") is new
    assert {"imagemint_queue_images", "imagemint_model_info"} <= list_metrics_of(repository, 1)


def test_unreadable_folder_unloads_nothing(tmp_path, new_repository, monkeypatch):
    """A temporary read error is no reason to unload."""
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


def serve_two_models(tmp_path, new_repository, **options):
    """Returns a repository in `tmp_path/models` with the models `one` and `two`."""
    for name in ("one", "two"):
        write_bundle(tmp_path / "models", name)
    return new_repository(tmp_path / "models", **options)


def read_lost_metric(repository):
    """Returns the value of the metric of a lost repository."""
    return repository._metrics.registry.get_sample_value("imagemint_repository_lost")


@pytest.mark.parametrize("left", ["an empty folder", "nothing", "a file"])
def test_lost_mount_unloads_nothing(tmp_path, new_repository, left):
    """If the whole repository disappears, all models serve on, and the metric shows it."""
    repository = serve_two_models(tmp_path, new_repository)
    served = repository.resolve("one")
    shutil.move(tmp_path / "models", tmp_path / "away")
    if left == "an empty folder":
        (tmp_path / "models").mkdir()
    elif left == "a file":
        (tmp_path / "models").write_text("")
    with pytest.raises(OSError):  # noqa: PT011 - of several kinds
        repository.refresh()
    assert repository.resolve("one") is served
    assert read_lost_metric(repository) == 1
    if left == "an empty folder":
        (tmp_path / "models").rmdir()
    elif left == "a file":
        (tmp_path / "models").unlink()
    shutil.move(tmp_path / "away", tmp_path / "models")
    repository.refresh()
    assert repository.resolve("one") is served
    assert read_lost_metric(repository) == 0


@pytest.fixture
def hang(monkeypatch):
    """A function that makes the scans of a repository hang, as those of a dead mount do.

    It returns an event that is set when a scan has begun, and one that lets the scans end.
    """
    made = []

    def make(repository):
        began, ends = threading.Event(), threading.Event()
        made.append(ends)
        scan = repository._source.scan

        def hang(max_age_s=0.0):
            began.set()
            assert ends.wait(WAIT_S)
            return scan(max_age_s)

        monkeypatch.setattr(repository._source, "scan", hang)
        return began, ends

    yield make
    for ends in made:
        ends.set()


def test_scan_that_does_not_end_is_a_lost_repository(tmp_path, new_repository, hang, monkeypatch):
    """A dead mount does not fail, so the metric must not wait for the end of the scan."""
    repository = serve_two_models(tmp_path, new_repository)
    began, ends = hang(repository)
    scanning = threading.Thread(target=repository.refresh)
    scanning.start()
    assert began.wait(WAIT_S)
    assert read_lost_metric(repository) == 0
    monkeypatch.setattr(repository_module, "LONG_SCAN_S", -1.0)
    assert read_lost_metric(repository) == 1
    ends.set()
    scanning.join(WAIT_S)
    assert read_lost_metric(repository) == 0


async def test_scan_that_does_not_end_is_logged(
    tmp_path, new_repository, hang, monkeypatch, caplog
):
    """The log says why new versions do not come."""
    monkeypatch.setattr(model_control, "LONG_SCAN_S", 0.0)
    repository = serve_two_models(tmp_path, new_repository)
    control = model_control.ModelControl(repository, "poll", poll_interval_s=0.01)
    logged = asyncio.Event()
    log_problem = control._log_problem

    def log_and_tell(problem):
        log_problem(problem)
        logged.set()

    monkeypatch.setattr(control, "_log_problem", log_and_tell)
    await control.start()
    try:
        hang(repository)
        await asyncio.wait_for(logged.wait(), WAIT_S)
    finally:
        await control.stop()
    assert "the repository has not answered for 0 s; the loaded models still serve" in caplog.text


def test_default_version_that_does_not_exist_is_reported(tmp_path, new_repository, caplog):
    """Requests without a version fail, although another version serves and no file is refused."""
    write_bundle(tmp_path, "tiny")
    policies = parse_policies(pins={"tiny": 2, "nobody": 3})
    repository = new_repository(tmp_path, policies=policies)
    message = "model tiny has no version 2, its default by default_versions"
    value = repository._metrics.registry.get_sample_value
    repository.refresh()
    assert caplog.text.count(message) == 1
    assert "nobody" not in caplog.text
    assert value("imagemint_model_serving", {"model": "tiny"}) == 0
    write_bundle(tmp_path, "tiny", version=2)
    repository.refresh()
    assert value("imagemint_model_serving", {"model": "tiny"}) == 1
    shutil.rmtree(tmp_path / "tiny/2")
    repository.refresh()
    wait_for_unloads(repository)
    assert caplog.text.count(message) == 2
    assert value("imagemint_model_serving", {"model": "tiny"}) == 0


def test_models_that_serve_are_measured(tmp_path, new_repository):
    """A model is counted from its first file on until it is unloaded, and only if it is wanted."""
    repository = serve_two_models(tmp_path, new_repository, wanted=["one"])
    value = repository._metrics.registry.get_sample_value
    (tmp_path / "models/broken/1").mkdir(parents=True)
    repository.refresh()
    assert value("imagemint_model_serving", {"model": "one"}) == 1
    assert value("imagemint_model_serving", {"model": "two"}) is None
    assert value("imagemint_model_serving", {"model": "broken"}) is None
    with pytest.raises(LoadFailed):
        repository.load_model("broken")
    assert value("imagemint_model_serving", {"model": "broken"}) == 0
    repository.unload_model("one")
    wait_for_unloads(repository)
    assert value("imagemint_model_serving", {"model": "one"}) is None


def test_lost_mount_of_one_model_unloads_nothing(tmp_path, new_repository, caplog):
    """An empty folder of a model does not unload it. A missing folder does."""
    repository = serve_two_models(tmp_path, new_repository)
    served = repository.resolve("one")
    shutil.rmtree(tmp_path / "models/one/1")
    repository.refresh()
    assert repository.resolve("one") is served
    assert "perhaps because a mount was lost" in caplog.text
    (tmp_path / "models/one").rmdir()
    repository.refresh()
    wait_for_unloads(repository)
    assert list(repository.models) == ["two"]


def test_empty_repository_unloads_if_configured(tmp_path, new_repository):
    """With `unload_when_empty` an empty folder unloads all models."""
    repository = serve_two_models(tmp_path, new_repository, unload_when_empty=True)
    shutil.rmtree(tmp_path / "models")
    (tmp_path / "models").mkdir()
    repository.refresh()
    wait_for_unloads(repository)
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
def test_transient_failure_is_retried(tmp_path, new_repository, monkeypatch, cause):
    """The load is retried after a growing delay, without a change of files, until it succeeds."""
    write_bundle(tmp_path)
    failing = [cause, cause]

    def open_backend(bundle):
        if failing:
            raise failing.pop()
        return OnnxBackend(bundle, device="cpu")

    now = [1000.0]
    monkeypatch.setattr("imagemint.server.repository.lifecycle.time.monotonic", lambda: now[0])
    repository = new_repository(tmp_path, open_backend=open_backend)
    assert "next attempt in 5 s" in read_reason(repository, 1)
    repository.refresh()
    assert len(failing) == 1  # not yet due
    now[0] += 6
    repository.refresh()
    assert "next attempt in 10 s" in read_reason(repository, 1)
    now[0] += 11
    repository.retry()
    repository.refresh()
    assert read_states(repository) == {1: State.READY}
    assert read_reason(repository, 1) == ""


def test_permanent_failure_is_not_retried(tmp_path, new_repository, monkeypatch):
    """The content of a bundle does not change by waiting."""
    truncate(write_bundle(tmp_path))
    now = [1000.0]
    monkeypatch.setattr("imagemint.server.repository.lifecycle.time.monotonic", lambda: now[0])
    repository = new_repository(tmp_path)
    now[0] += 10**6
    repository.retry()
    repository.refresh()
    assert count_failures(repository) == 1


class Gate:
    """Holds the load of version 2 until the test lets it go on."""

    def __init__(self):
        self.entered, self.go_on = threading.Event(), threading.Event()

    def open_backend(self, bundle):
        """Returns the backend of a bundle."""
        if bundle.version == 2:
            self.entered.set()
            assert self.go_on.wait(WAIT_S)
        return OnnxBackend(bundle, device="cpu")


def test_loading_does_not_block_other_versions(tmp_path, new_repository):
    """While a version loads, it is listed as LOADING, and the others answer."""
    write_bundle(tmp_path, "tiny", 1)
    gate = Gate()
    repository = new_repository(tmp_path, open_backend=gate.open_backend)
    write_bundle(tmp_path, "tiny", 2)
    refreshing = threading.Thread(target=repository.refresh)
    refreshing.start()
    assert gate.entered.wait(WAIT_S)
    assert read_states(repository) == {1: State.READY, 2: State.LOADING}
    assert repository.resolve("tiny").version == 1
    with pytest.raises(ModelNotReady) as caught:
        repository.resolve("tiny", "2")
    assert str(caught.value) == "version 2 of model 'tiny' is not ready: still loading"
    assert caught.value.metadata == {"model": "tiny", "version": "2"}
    gate.go_on.set()
    refreshing.join(WAIT_S)
    assert repository.resolve("tiny").version == 2


def test_version_that_appears_during_a_load_is_loaded(tmp_path, new_repository):
    """A version that is found while another one loads is loaded right after it."""
    write_bundle(tmp_path, "tiny", 1)
    gate = Gate()
    repository = new_repository(tmp_path, open_backend=gate.open_backend)
    write_bundle(tmp_path, "tiny", 2)
    refreshing = threading.Thread(target=repository.refresh)
    refreshing.start()
    assert gate.entered.wait(WAIT_S)
    write_bundle(tmp_path, "tiny", 3)
    repository.refresh(wait=False)
    gate.go_on.set()
    refreshing.join(WAIT_S)
    assert repository.resolve("tiny").version == 3


def test_close_cancels_a_load(tmp_path, new_repository):
    """A backend that was opened in the meantime is closed again."""
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


def test_close_ends_the_unload_grace(tmp_path, new_repository):
    """A server that stops does not wait for a version that is unloading."""
    write_bundle(tmp_path)
    repository = new_repository(tmp_path, wanted=["tiny"], unload_grace_s=WAIT_S)
    old = repository.resolve("tiny")
    assert old.holds.take()
    repository.unload_model("tiny")
    repository.close()
    assert old.backend._session is None


@settings(max_examples=20)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), before=st.integers(0, 12))
def test_unload_completes_running_batches(tmp_path_factory, counts, before):
    """Every image of the calls that run when a version is unloaded is computed correctly."""
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory)

    async def run():
        repository, backend = _make_held_repository(directory)
        served = repository.resolve("tiny")
        backend.hold()
        jobs = []
        for place, count in enumerate(counts):
            if place == before:
                backend.step()  # some images are already being computed
            assert served.holds.take()
            jobs.append(
                Job(
                    count,
                    draw_latents(place, 0, count, 8),
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
            alone = backend._compute(Batch(draw_latents(place, 0, job.count, 8), classes))
            assert job.images.tobytes() == alone.tobytes()
        await asyncio.to_thread(wait_for_unloads, repository)
        assert backend.closed
        repository.close()

    asyncio.run(run())


def _make_held_repository(directory):
    metrics, backends = Metrics(), []

    def open_backend(bundle):
        backends.append(HeldBackend(OnnxBackend(bundle, device="cpu").run))
        return backends[0]

    repository = ModelRepository(
        LocalDirectory(directory),
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
