"""Bundles that are tried in a process of their own, under limits."""

import json
import signal
import threading
from pathlib import Path

import pytest
from held_backend import WAIT_S
from hostile_graphs import folding, unknown
from tiny_bundles import write_bundle

from imagemint.engine import memory
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import latents
from imagemint.engine.trial import trials as trial
from imagemint.engine.trial.trials import TrialOptions, Trials, is_plain


def trials(timeout_s=WAIT_S):
    """Trials with the limits of the defaults."""
    return Trials(TrialOptions(timeout_s, 2**30, 2**29, alone_threads=2))


def test_shipped_digits_are_plain():
    """They load without a trial. Avatars need one: the estimate of their graph is incomplete."""
    models = Path(__file__).parents[4] / "models"
    plain = {
        path.parent.parent.name
        for path in models.glob("*/*/model.onnx")
        if is_plain(read_bundle(path.parent))
    }
    assert plain >= {"mnist", "stacked-mnist"}


@pytest.mark.parametrize("edit", [folding(3000, 1), folding(10**6, 0), unknown])
def test_what_may_be_dear_is_not_plain(tmp_path, edit):
    """Much to fold, much memory, or an operator that is not known."""
    assert not is_plain(read_bundle(write_bundle(tmp_path, edit_model=edit)))


def test_findings_are_those_of_the_backend(tmp_path):
    """What a trial finds out is what a probe here finds out, and serves in its place."""
    directory = write_bundle(tmp_path, edit_model=unknown, conditional=False)
    sha256, findings = trials().run(directory, "reference")
    bundle = read_bundle(directory)
    probed = OnnxBackend(bundle, device="cpu", alone_threads=2)
    assert sha256 == bundle.sha256
    assert (findings.batching, findings.spread) == (probed.batching, probed.findings.spread)
    object.__setattr__(bundle, "findings", findings)
    told = OnnxBackend(bundle, device="cpu", alone_threads=2)
    assert told.findings == findings
    z = latents(1, 0, 5, 8)
    assert told.run(Batch(z)).tobytes() == probed.run(Batch(z)).tobytes()
    assert told.run_alone(Batch(z)).tobytes() == probed.run(Batch(z)).tobytes()


def test_slow_bundle_is_refused_when_its_time_is_over(tmp_path):
    """Even within one operator, which nothing interrupts; it may be tried again."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    with pytest.raises(BundleRefused, match=r"within load_timeout_s \(0.1 s\)") as caught:
        trials(0.1).run(directory, "reference")
    assert caught.value.passing


def test_greedy_bundle_is_refused_by_a_limit(tmp_path, monkeypatch):
    """More memory than the share of a trial is an error there, and the machine is spared."""
    monkeypatch.setattr(trial, "available_bytes", lambda: 4 * 2**30)
    directory = write_bundle(tmp_path, edit_model=folding(40_000, 0))
    with pytest.raises(BundleRefused, match=r"the limit is 2.0 GiB") as caught:
        trials().run(directory, "reference")
    assert caught.value.passing


def test_refusal_has_its_reason(tmp_path):
    """What the bundle is, is said as without a trial, and does not pass."""
    directory = write_bundle(tmp_path)
    (directory / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleRefused, match="truncated or altered") as caught:
        trials().run(directory, "reference")
    assert not caught.value.passing


@pytest.mark.parametrize(("number", "passing"), [(signal.SIGSEGV, False), (signal.SIGKILL, True)])
def test_fault_of_the_runtime_stays_in_the_trial(tmp_path, monkeypatch, number, passing):
    """A process that ends by a signal is a refusal that names it."""
    script = f"import os; os.kill(os.getpid(), {int(number)})"
    monkeypatch.setattr(trial, "_CHILD", (trial._CHILD[0], "-c", script))
    with pytest.raises(BundleRefused, match=number.name) as caught:
        trials().run(write_bundle(tmp_path), "reference")
    assert caught.value.passing is passing


def test_close_ends_every_trial(tmp_path):
    """Those that run, and those to come."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    running, refusals = trials(), []

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
    with pytest.raises(BundleRefused, match="leaving"):
        running.run(directory, "reference")
    assert len(refusals) == 1


def test_child_ends_with_its_parent(tmp_path):
    """When the other end of its stdin is gone, whatever the runtime is doing."""
    directory = write_bundle(tmp_path, edit_model=folding(20_000, 1))
    process = trials()._start(directory, _arguments(directory))
    process.stdin.close()
    assert process.wait(WAIT_S) == 1
    process.stdout.close()


def _arguments(directory):
    """What a trial is told."""
    return json.dumps(
        {
            "directory": str(directory),
            "variant": "reference",
            "memory_bytes": None,
            "timeout_s": WAIT_S,
            "max_bytes": 2**30,
            "max_image_memory_bytes": 2**29,
            "alone_threads": 1,
            "intra_op_threads": 1,
        }
    )


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    """Less is available than the machine has where a control group allows less."""
    for name, amount in (("memory.max", "3000000000"), ("memory.current", "1000000000")):
        (tmp_path / name).write_text(amount + "\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert memory.available_bytes() == 2_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 8_000_000 * 1024


def test_causes_that_pass():
    """The machine's state passes; what a path is does not."""
    assert is_passing(OSError(5, "EIO"))
    assert is_passing(OSError(24, "EMFILE"))
    assert is_passing(MemoryError())
    assert is_passing(RuntimeError("std::bad_alloc"))
    assert not is_passing(OSError(40, "ELOOP"))
    assert not is_passing(PermissionError(13, "EACCES"))
    assert not is_passing(ValueError("no"))
