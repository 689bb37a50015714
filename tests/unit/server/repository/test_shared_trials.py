"""Tests of trials whose results all workers of a server share."""

import logging
import os
import threading

import pytest
from held_backend import WAIT_S
from tiny_bundles import write_bundle

from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.findings import Batching, Findings
from imagemint.engine.errors import BundleRefused
from imagemint.server.repository import SharedLog, SharedTrials

FINDINGS = Findings("ab", Batching.ALONE, spread=False, most_rows=3)


class Recorder:
    """Trials that record which they ran, and wait until the test lets them end."""

    def __init__(self, failure=None, *, waits=False):
        self.ran, self.failure = [], failure
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.closed = False
        if not waits:
            self.go_on.set()

    def run(self, directory, variant, trusted_keys=None):
        """Returns the digest of the bundle, or raises the failure."""
        self.ran.append((directory, variant, trusted_keys))
        self.entered.set()
        assert self.go_on.wait(WAIT_S)
        if self.failure:
            raise self.failure
        return read_bundle(directory).sha256, Findings(
            "ab", Batching.ALONE, spread=False, most_rows=3
        )

    def close(self):
        """Notes the call."""
        self.closed = True


@pytest.fixture
def bundle(tmp_path):
    """The directory of a bundle."""
    return write_bundle(tmp_path / "models")


@pytest.fixture
def join(tmp_path):
    """A function that returns the shared trials of another worker."""
    return lambda trials: SharedTrials(trials, SharedLog(tmp_path / "log"))


class AnnouncedLog(SharedLog):
    """A log that says when a worker is about to wait for a task."""

    def __init__(self, path):
        super().__init__(path)
        self.arrived = threading.Event()

    def lock_task(self, name):
        """Locks a task."""
        self.arrived.set()
        return super().lock_task(name)


@pytest.fixture
def run_both(tmp_path, bundle):
    """A function that runs the trial of a bundle in two workers at once and returns the results.

    The first one ends only when the second one has come to wait for it. With `stops`, the first
    worker stops then.
    """

    def run(first, second, *, stops=False):
        results = {}
        logs = [AnnouncedLog(tmp_path / "log") for _ in range(2)]
        shared = [
            SharedTrials(trials, log) for trials, log in zip((first, second), logs, strict=True)
        ]

        def work(number):
            try:
                results[number] = shared[number].run(bundle, "fp32")
            except BundleRefused as error:
                results[number] = error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        threads[0].start()
        assert first.entered.wait(WAIT_S)
        threads[1].start()
        assert logs[1].arrived.wait(WAIT_S)
        if stops:
            shared[0].close()
        first.go_on.set()
        for thread in threads:
            thread.join(WAIT_S)
        return results[0], results[1]

    return run


def test_one_worker_tries_a_bundle_for_all(join, bundle):
    """A second worker gets the digest and the findings of the first one."""
    first, second = Recorder(), Recorder()
    result = join(first).run(bundle, "fp32", "PEM")
    assert join(second).run(bundle, "fp32", "PEM") == result
    assert result[1] == FINDINGS
    assert first.ran == [(bundle, "fp32", "PEM")]
    assert second.ran == []


def test_worker_waits_for_the_trial_of_another(run_both):
    """Two workers that start together run one trial."""
    first, second = Recorder(waits=True), Recorder()
    one, other = run_both(first, second)
    assert one == other
    assert [len(first.ran), len(second.ran)] == [1, 0]


@pytest.mark.parametrize("passing", [True, False])
def test_refusal_counts_for_the_workers_that_waited(run_both, bundle, passing):
    """They need not wait for a bundle that is too slow once more."""
    first = Recorder(BundleRefused(bundle, "it is slow", passing=passing), waits=True)
    second = Recorder()
    for refusal in run_both(first, second):
        assert [refusal.path, refusal.why, refusal.passing] == [bundle, "it is slow", passing]
    assert second.ran == []


@pytest.mark.parametrize("change", ["files", "variant", "keys"])
def test_another_trial_has_its_own_result(join, bundle, change):
    """Changed files, another variant and other trusted keys need a trial of their own."""
    first, second = Recorder(), Recorder()
    join(first).run(bundle, "fp32")
    if change == "files":
        os.utime(bundle / "model.onnx", (1, 1))
    variant = "int8" if change == "variant" else "fp32"
    join(second).run(bundle, variant, "PEM" if change == "keys" else None)
    assert len(second.ran) == 1


@pytest.mark.parametrize("passing", [True, False])
def test_refusal_is_tried_again(join, bundle, passing):
    """An attempt after a refusal is a new trial, because the cause may be gone."""
    refusing = Recorder(BundleRefused(bundle, "no memory", passing=passing))
    with pytest.raises(BundleRefused, match="no memory") as caught:
        join(refusing).run(bundle, "fp32")
    assert caught.value.passing is passing
    second = Recorder()
    assert join(second).run(bundle, "fp32")[0] == read_bundle(bundle).sha256
    assert len(second.ran) == 1


def test_files_that_change_during_a_trial_are_tried_again(join, bundle):
    """The result may be of either files, so nobody else uses it."""

    class Changing(Recorder):
        def run(self, directory, variant, trusted_keys=None):
            result = super().run(directory, variant, trusted_keys)
            os.utime(bundle / "model.onnx", (1, 1))
            return result

    join(Changing()).run(bundle, "fp32")
    second = Recorder()
    join(second).run(bundle, "fp32")
    assert len(second.ran) == 1


def test_result_that_cannot_be_shared_serves_its_worker(join, bundle, monkeypatch, caplog):
    """On a full disk each worker runs its own trials, and the log says so."""

    def fail(self, topic, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imagemint.server.repository.shared_log.LockedLog.append", fail)
    with caplog.at_level(logging.WARNING):
        assert join(Recorder()).run(bundle, "fp32")[0] == read_bundle(bundle).sha256
    assert "the result of a trial is not shared: [Errno 28]" in caplog.text


def test_trial_of_a_worker_that_stops_is_run_by_another(run_both, bundle):
    """The stop kills the trial. The refusal that follows counts for this worker alone."""
    first, second = Recorder(BundleRefused(bundle, "SIGKILL", passing=True), waits=True), Recorder()
    refusal, result = run_both(first, second, stops=True)
    assert refusal.why == "SIGKILL"
    assert result[0] == read_bundle(bundle).sha256
    assert [len(first.ran), len(second.ran)] == [1, 1]


def test_close_ends_the_trials(join):
    """The trials of this worker end, not those of the others."""
    first, second = Recorder(), Recorder()
    join(first).close()
    assert [first.closed, second.closed] == [True, False]
