"""Tests of trials, which load a bundle in a process of its own under limits."""

import json
import signal
import threading
from pathlib import Path

import pytest
from held_backend import WAIT_S
from hostile_graphs import folding, unknown
from tiny_bundles import write_bundle

from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.engine.trial import trials as trial
from imagemint.engine.trial.trials import TrialOptions, Trials, is_plain


def make_trials(timeout_s=WAIT_S):
    """Returns trials with the default limits."""
    return Trials(TrialOptions(timeout_s, 2**30, 2**29, alone_threads=2))


def test_shipped_digits_need_no_trial():
    """The digits load without a trial.

    Avatars need one: the estimate of their graph is incomplete.
    """
    models = Path(__file__).parents[4] / "models"
    plain = {
        path.parent.parent.name
        for path in models.glob("*/*/model.onnx")
        if is_plain(read_bundle(path.parent))
    }
    assert plain >= {"mnist", "stacked-mnist"}


@pytest.mark.parametrize("edit", [folding(3000, 1), folding(10**6, 0), unknown])
def test_expensive_bundle_needs_a_trial(tmp_path, edit):
    """A bundle with much to fold, much memory or an unknown operator needs a trial."""
    assert not is_plain(read_bundle(write_bundle(tmp_path, edit_model=edit)))


def test_findings_equal_those_of_the_backend(tmp_path):
    """A trial finds what a probe in this process finds, and the backend can use its findings."""
    directory = write_bundle(tmp_path, edit_model=unknown, conditional=False)
    sha256, findings = make_trials().run(directory, "reference")
    bundle = read_bundle(directory)
    probed = OnnxBackend(bundle, device="cpu", alone_threads=2)
    assert sha256 == bundle.sha256
    assert (findings.batching, findings.spread) == (probed.batching, probed.findings.spread)
    object.__setattr__(bundle, "findings", findings)
    told = OnnxBackend(bundle, device="cpu", alone_threads=2)
    assert told.findings == findings
    z = draw_latents(1, 0, 5, 8)
    assert told.run(Batch(z)).tobytes() == probed.run(Batch(z)).tobytes()
    assert told.run_alone(Batch(z)).tobytes() == probed.run(Batch(z)).tobytes()


def test_slow_bundle_is_refused_after_the_timeout(tmp_path):
    """The timeout interrupts even a single operator, and the bundle may be tried again."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    with pytest.raises(BundleRefused, match=r"within load_timeout_s \(0.1 s\)") as caught:
        make_trials(0.1).run(directory, "reference")
    assert caught.value.passing


def test_bundle_over_the_memory_limit_is_refused(tmp_path, monkeypatch):
    """A bundle that needs more memory than the limit fails in the trial process."""
    monkeypatch.setattr(trial, "measure_available_bytes", lambda: 4 * 2**30)
    directory = write_bundle(tmp_path, edit_model=folding(40_000, 0))
    with pytest.raises(BundleRefused, match=r"the limit is 2.0 GiB") as caught:
        make_trials().run(directory, "reference")
    assert caught.value.passing


def test_refusal_has_the_reason_of_the_bundle(tmp_path):
    """A faulty bundle is refused with the same reason as without a trial, permanently."""
    directory = write_bundle(tmp_path)
    (directory / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleRefused, match="truncated or altered") as caught:
        make_trials().run(directory, "reference")
    assert not caught.value.passing


@pytest.mark.parametrize(("number", "passing"), [(signal.SIGSEGV, False), (signal.SIGKILL, True)])
def test_crash_of_the_runtime_is_a_refusal(tmp_path, monkeypatch, number, passing):
    """A trial process that ends by a signal is reported as a refusal that names the signal."""
    script = f"import os; os.kill(os.getpid(), {int(number)})"
    monkeypatch.setattr(trial, "_CHILD", (trial._CHILD[0], "-c", script))
    with pytest.raises(BundleRefused, match=number.name) as caught:
        make_trials().run(write_bundle(tmp_path), "reference")
    assert caught.value.passing is passing


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "import imagemint.absent",
            r"\(ModuleNotFoundError: No module named '.+'\)$",
        ),
        ("raise SystemExit('x' * 999)", r"exit status 1 \(x{300}…\)$"),
        ("raise SystemExit(3)", "exit status 3$"),
    ],
)
def test_process_that_does_not_start_is_no_fault_of_the_bundle(
    tmp_path, monkeypatch, script, reason
):
    """The refusal has the error, and the bundle may be tried again."""
    monkeypatch.setattr(trial, "_CHILD", (trial._CHILD[0], "-c", script))
    with pytest.raises(BundleRefused, match=reason) as caught:
        make_trials().run(write_bundle(tmp_path), "reference")
    assert caught.value.passing


def test_errors_have_a_limit(tmp_path, monkeypatch):
    """A runtime that writes without end does not fill the memory of the server."""
    script = """
import os
from imagemint.engine.trial import trial_process
trial_process.try_bundle = lambda options: print(os.write(2, b"x" * 10**6)) or os._exit(0)
trial_process.main()
"""
    monkeypatch.setattr(trial, "_CHILD", (trial._CHILD[0], "-c", script))
    written = []
    monkeypatch.setattr(trial, "_read_verdict", lambda *told: written.append(told))
    make_trials().run(write_bundle(tmp_path), "reference")
    assert 0 < int(written[0][2]) <= 2**16


def test_close_ends_every_trial(tmp_path):
    """`close` ends the trials that run and refuses new ones."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    running, refusals = make_trials(), []

    def run():
        with pytest.raises(BundleRefused) as caught:
            running.run(directory, "reference")
        refusals.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    while not running._running:
        assert thread.is_alive()
    (process,) = running._running
    running.close()
    thread.join(WAIT_S)
    assert process.poll() is not None
    with pytest.raises(BundleRefused, match="shutting down"):
        running.run(directory, "reference")
    assert len(refusals) == 1


def test_child_ends_with_its_parent(tmp_path):
    """A trial process ends when its stdin is closed, whatever the runtime is doing."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    process = make_trials()._start(directory, _make_arguments(directory))
    process.stdin.close()
    assert process.wait(WAIT_S) == 1
    process.stdout.close()


def _make_arguments(directory):
    """Returns the input of a trial process."""
    return json.dumps(
        {
            "directory": str(directory),
            "variant": "reference",
            "memory_bytes": None,
            "timeout_s": WAIT_S,
            "trusted_keys": None,
            "max_bytes": 2**30,
            "max_image_memory_bytes": 2**29,
            "alone_threads": 1,
            "intra_op_threads": 1,
        }
    )


def test_transient_causes_are_recognized():
    """A state of the machine is transient; a wrong path, permission or value is not."""
    assert is_passing(OSError(5, "EIO"))
    assert is_passing(OSError(24, "EMFILE"))
    assert is_passing(MemoryError())
    assert is_passing(RuntimeError("std::bad_alloc"))
    assert not is_passing(OSError(40, "ELOOP"))
    assert not is_passing(PermissionError(13, "EACCES"))
    assert not is_passing(ValueError("no"))
