"""Tests of the training loop: exact resume, stopping, and errors of failed runs."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from imagemint.training.errors import CheckpointError, Diverged, LossNotFinite, ModeCollapse
from imagemint.training.loop import batches, health, provenance, training_loop
from imagemint.training.loop.checkpoints import find_latest_checkpoint, list_checkpoints
from imagemint.training.loop.ema import recalibrate
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.samples import Variety
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.start import make_initial_state
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.rng import draw_torch_seed
from imagemint.training.trained import read_generator

CODE_REVISION = provenance.read_code_revision  # the fixtures replace it


@pytest.fixture
def _skip_animation():
    """Overrides the fixture of this name, because a run has its animation."""


@pytest.fixture(scope="module")
def files_of_whole_run():
    """A dictionary for the files of an uninterrupted run, which the first test fills."""
    return {}


@pytest.fixture
def expected(files_of_whole_run, train, tmp_path_factory, read_files):
    """The files of an uninterrupted run."""
    if not files_of_whole_run:
        run = tmp_path_factory.mktemp("whole")
        train(run)
        files_of_whole_run.update(read_files(run))
    return files_of_whole_run


@pytest.fixture
def assert_equals_whole(expected, read_files):
    """A function that asserts that the files of a run equal those of an uninterrupted one."""

    def compare(run):
        assert read_files(run) == expected

    return compare


@pytest.fixture
def at_steps(monkeypatch):
    """A function that calls an action when the monitor gets the losses of these steps."""

    def arm(numbers, action):
        step = Monitor.add_step

        def watched(self, *losses):
            step(self, *losses)
            if self._state.step in numbers:
                action()

        monkeypatch.setattr(Monitor, "add_step", watched)

    return arm


def press_ctrl_c():
    """Raises SIGINT, as Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


def test_run_writes_all_files(expected):
    """The run has checkpoints (without the oldest), a log, grids and an animation."""
    names = {"state.safetensors", "generator.safetensors", "checkpoint.json"}
    assert set(expected) == {
        *(f"checkpoints/{n:010d}/{name}" for n in (64, 96) for name in names),
        *(f"grids/{n:010d}.png" for n in (32, 64, 96)),
        "log.jsonl",
        "grids.gif",
    }


def test_checkpoint_has_no_figures_of_rows(expected):
    """A row that is due with a checkpoint comes first, so that a resume counts no step again."""
    description = json.loads(expected[f"checkpoints/{96:010d}/checkpoint.json"])
    assert description["unlogged"] == {}


def test_same_seed_gives_the_same_run(assert_equals_whole, train, tmp_path):
    """A repeated run is equal bit for bit."""
    train(tmp_path / "again")
    assert_equals_whole(tmp_path / "again")


@pytest.mark.parametrize(
    "cuts",
    [(1,), (4,), (5, 6), (3, 5, 8, 10)],
    ids=lambda cuts: "-".join(map(str, cuts)),
)
def test_stopped_run_equals_whole(assert_equals_whole, train, tmp_path, at_steps, cuts):
    """A run that a signal stops after any step, on the schedule or off it, resumes bit for bit."""
    at_steps(cuts, press_ctrl_c)
    for number in cuts:
        state = train(tmp_path, resume=number != cuts[0])
        assert state.step == number
    train(tmp_path, resume=True)
    assert_equals_whole(tmp_path)


def test_killed_run_equals_whole(assert_equals_whole, train, tmp_path, at_steps):
    """A run that fails between two checkpoints resumes from the older one, bit for bit."""
    deaths = [MemoryError]

    def die():
        if deaths:
            raise deaths.pop()

    at_steps([7], die)
    with pytest.raises(MemoryError):
        train(tmp_path)
    assert find_latest_checkpoint(tmp_path).name == f"{32:010d}"
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"images": 56, "lo')
    train(tmp_path, resume=True)
    assert_equals_whole(tmp_path)


def test_power_cut_loses_only_steps(assert_equals_whole, train, tmp_path, at_steps, cut_power):
    """What a run has not flushed is lost, and the resumed run still equals the whole one."""
    cuts = [MemoryError]

    def cut():
        if cuts:
            cut_power(tmp_path)
            raise cuts.pop()

    at_steps([11], cut)
    with pytest.raises(MemoryError):
        train(tmp_path)
    rows = (tmp_path / "log.jsonl").read_bytes().split(b"\n")
    assert [row[:1] for row in rows] == [b"{", b"{", b"\0"]
    train(tmp_path, resume=True)
    assert_equals_whole(tmp_path)


def test_stop_and_end_are_not_measured(train, tmp_path, at_steps):
    """Only checkpoints of the schedule are, so a stopped run has the figures of a whole one."""
    measured = []

    def measure(_):
        measured.append(1)
        return {"coverage": 0.5}

    at_steps([5], press_ctrl_c)
    assert train(tmp_path, images=56, measure=measure).images_seen == 40
    assert train(tmp_path, images=56, measure=measure, resume=True).images_seen == 56
    rows = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert ([row["images"] for row in rows if "coverage" in row], len(measured)) == ([48], 1)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_returns(train, tmp_path, at_steps, kind):
    """Both signals finish the step and save. The previous handlers are restored afterwards."""
    before = signal.getsignal(kind)
    at_steps([2], lambda: signal.raise_signal(kind))
    assert train(tmp_path).images_seen == 16
    assert find_latest_checkpoint(tmp_path).name == f"{16:010d}"
    assert signal.getsignal(kind) is before


def test_second_signal_aborts(train, tmp_path, at_steps):
    """A second signal ends the run at once, and earlier checkpoints stay. Handlers are restored."""
    before = signal.getsignal(signal.SIGTERM)
    at_steps([5], lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert find_latest_checkpoint(tmp_path).name == f"{32:010d}"
    assert signal.getsignal(signal.SIGTERM) is before


def test_signal_prevents_a_rollback(train_with_explosions, tmp_path, monkeypatch):
    """A run that gets a signal in the step that fails does not roll back and continue."""
    draw_codes, left = batches.draw_codes, iter(range(6, 0, -1))

    def signalling(*arguments):
        if next(left, 0) == 1:
            signal.raise_signal(signal.SIGINT)
        return draw_codes(*arguments)

    monkeypatch.setattr(batches, "draw_codes", signalling)
    with pytest.raises(LossNotFinite):
        train_with_explosions(tmp_path, explosions=1, rollbacks=5)


def test_resume_of_a_finished_run_changes_nothing(assert_equals_whole, train, tmp_path):
    """A run that has ended resumes to the same files."""
    train(tmp_path)
    train(tmp_path, resume=True)
    assert_equals_whole(tmp_path)


def test_finished_run_can_be_extended(train, tmp_path, read_files):
    """With a constant learning rate, a run that is extended equals a long one."""
    train(tmp_path / "long", images=64, decay_share=0)
    train(tmp_path / "short", images=40, decay_share=0)
    train(tmp_path / "short", images=64, decay_share=0, resume=True)
    long, short = read_files(tmp_path / "long"), read_files(tmp_path / "short")
    name = f"checkpoints/{64:010d}/state.safetensors"
    assert short[name] == long[name]
    assert short["log.jsonl"] == long["log.jsonl"]


def test_seeds_give_different_weights(expected, train, tmp_path, read_files):
    """Another seed gives other weights."""
    train(tmp_path, seed=1)
    name = f"checkpoints/{96:010d}/generator.safetensors"
    assert read_files(tmp_path)[name] != expected[name]


@pytest.mark.parametrize("objective", ["relativistic", "hinge"])
@pytest.mark.parametrize("penalty_weight", [0.0, 1.0])
def test_options_reach_the_training_step(train, tmp_path, objective, penalty_weight):
    """Every objective trains with and without penalties, which the log shows."""
    train(
        tmp_path,
        images=24,
        objective=objective,
        penalty_weight=penalty_weight,
        final_penalty_weight=penalty_weight,
    )
    (row,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert ("r1" in row, "r2" in row) == ((penalty_weight > 0,) * 2)
    assert row["images"] == 24


def test_averaged_generator_follows_training(train, tmp_path):
    """The average is close to the training generator and not equal to it."""
    state = train(tmp_path, images=24)
    running, averaged = state.G.state_dict(), state.G_ema.state_dict()
    for name in ("embed.weight", "project.weight", "trunk.8.weight"):
        assert not torch.equal(running[name], averaged[name])
        assert torch.allclose(running[name], averaged[name], atol=0.05)


def test_average_counts_every_image_of_a_step(train, tmp_path, monkeypatch):
    """Its half-life is in images, and several steps of D show several batches."""
    weigh, counted = training_loop.compute_ema_weight, []

    def watch(count, *others):
        counted.append(count)
        return weigh(count, *others)

    monkeypatch.setattr(training_loop, "compute_ema_weight", watch)
    train(tmp_path, images=48, discriminator_steps=3)
    assert counted == [24, 24]


def test_checkpoint_has_the_averaged_generator(train, tmp_path):
    """What is exported and measured is the average, with its own batch-normalisation statistics."""
    state = train(tmp_path, images=24)
    saved, averaged = read_generator(tmp_path).module, state.G_ema.state_dict()
    ready = recalibrate(state.G_ema, z_dim=4, num_classes=10, batches=1).state_dict()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, ready[name]), name
        if name.endswith("weight"):
            assert torch.equal(tensor, averaged[name]), name
            assert not torch.equal(tensor, state.G.state_dict()[name]), name
        if name.endswith("running_var"):
            assert not torch.equal(tensor, averaged[name]), name
    assert not saved.training


def test_exploding_loss_is_an_error(train, tmp_path):
    """An excessive learning rate raises an error that says that nothing was saved."""
    with pytest.raises(
        LossNotFinite, match=r"after \d+ images .*; no checkpoint was saved yet; .*"
    ):
        train(tmp_path, learning_rate=1e30)
    assert list_checkpoints(tmp_path) == []


def test_explosion_keeps_the_good_checkpoint(assert_equals_whole, train, tmp_path, monkeypatch):
    """The error names the checkpoint from before the NaN loss, which resumes to the whole run."""
    rate = training_loop.compute_learning_rate
    with monkeypatch.context() as patch:
        patch.setattr(
            training_loop,
            "compute_learning_rate",
            lambda r, n, _: 1e30 if n >= 40 else rate(r, n),
        )
        with pytest.raises(LossNotFinite, match=f"kept, .*{32:010d}; a smaller --learning-rate"):
            train(tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"{32:010d}"]
    train(tmp_path, resume=True)
    assert_equals_whole(tmp_path)


def test_infinite_weights_are_not_saved(train, tmp_path, poison):
    """Weights can be infinite while losses still look normal. Such a checkpoint is not saved."""
    poison(8, float("inf"))
    alert = Schedule(log_interval=24, snapshot_interval=32, collapse_grace=64)
    with pytest.raises(LossNotFinite, match=r"64 images \d+ tensors, G_ema/embed.weight first"):
        train(tmp_path, schedule=alert)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"{32:010d}"]


def test_infinite_statistics_are_not_saved(digits, tmp_path):
    """The statistics that the averaged generator gets for a checkpoint can overflow as well."""
    recipe = MnistRecipe(generator_channels=4, discriminator_channels=1, z_dim=4)
    state = make_initial_state(recipe, digits, torch.device("cpu"))
    generator = recalibrate(state.G_ema, z_dim=4, num_classes=10, batches=1)
    health.refuse_not_finite(state, generator, tmp_path)
    next(generator.buffers()).fill_(float("inf"))
    with pytest.raises(LossNotFinite, match="1 tensors, recalibrated/"):
        health.refuse_not_finite(state, generator, tmp_path)


def make_collapse_schedule(patience, rollbacks=0):
    """Returns a schedule that checks for collapse from the first checkpoint on."""
    return Schedule(24, 32, collapse_grace=0, collapse_patience=patience, rollbacks=rollbacks)


def test_lasting_collapse_ends_the_run(train, tmp_path, poison):
    """A constant generator gives a warning and then an error. The good checkpoint stays."""
    poison(5, 0.0)
    with pytest.raises(ModeCollapse, match=rf"vary 0.000 times .* last 32 images.*{32:010d}"):
        train(tmp_path, schedule=make_collapse_schedule(32))
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"{n:010d}" for n in (32, 64)]
    assert (tmp_path / "grids" / f"{96:010d}.png").exists()


def test_collapse_is_a_warning_at_first(train, tmp_path, poison, caplog):
    """A run that ends before the patience does is complete, with a warning and all checkpoints."""
    poison(5, 0.0)
    state = train(tmp_path, schedule=make_collapse_schedule(64))
    assert (state.images_seen, state.collapsed_since) == (96, 64)
    assert "the run ends if that lasts for another 64 images" in caplog.text
    # Checkpoint 32 is from before the collapse and stays beside the newest two.
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"{n:010d}" for n in (32, 64, 96)]
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["within_class_nearest"] == 0


def test_recovery_ends_a_collapse(train, tmp_path, monkeypatch, caplog):
    """If samples vary again, the collapse is forgotten, and the run continues to its end."""
    found = iter([0.05, 0.3, 0.05])
    monkeypatch.setattr(
        health,
        "measure_variety",
        lambda *_, **__: Variety(1.0, next(found), worst_class=0, worst=0),
    )
    state = train(tmp_path, schedule=make_collapse_schedule(64))
    assert state.collapsed_since == 96
    assert "after 64 images the samples vary again" in caplog.text
    assert "of one class vary 0.30 times as much as real ones" in caplog.text


def test_resume_remembers_a_collapse(train, tmp_path, poison):
    """A run that stops during a collapse and resumes ends where it would have ended."""
    poison(1, 0.0)
    train(tmp_path, schedule=make_collapse_schedule(64), images=64)
    with pytest.raises(ModeCollapse, match=r"after 96 images .* last 64 images"):
        train(tmp_path, schedule=make_collapse_schedule(64), resume=True)


def test_rollback_goes_before_the_collapse(train, tmp_path, poison, caplog):
    """A rollback uses the checkpoint from before the collapse, not one during it."""
    poison(5, 0.0)
    with pytest.raises(ModeCollapse, match="last 32 images"):
        train(tmp_path, schedule=make_collapse_schedule(32, rollbacks=1))
    assert "rolled back to image 32 with half the learning rate" in caplog.text


@pytest.fixture
def train_with_explosions(train, monkeypatch):
    """A function that trains with steps that explode after image 40, a given number of times."""

    def start(run, explosions, rollbacks, log_interval=24):
        rate, left = training_loop.compute_learning_rate, [explosions]

        def exploding(recipe, images_seen, rolled):
            if images_seen >= 40 and rolled < left[0]:
                return 1e30
            return rate(recipe, images_seen, rolled)

        monkeypatch.setattr(training_loop, "compute_learning_rate", exploding)
        alert = Schedule(log_interval, 32, 1_000, rollbacks=rollbacks)
        return train(run, schedule=alert)

    return start


def test_explosion_is_rolled_back(train_with_explosions, tmp_path, caplog, read_files):
    """With rollbacks, the run returns to its last good checkpoint and ends with smaller steps."""
    state = train_with_explosions(tmp_path / "run", explosions=2, rollbacks=2)
    assert (state.images_seen, state.rollbacks) == (96, 2)
    assert state.opt_G.param_groups[0]["lr"] < 1e-3 / 4
    assert caplog.text.count("rolled back to image 32 with half the learning rate") == 2
    rows = [json.loads(row) for row in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row.get("rollbacks") for row in rows] == [None, 2, 2, 2]
    checkpoint = json.loads(
        (find_latest_checkpoint(tmp_path / "run") / "checkpoint.json").read_text()
    )
    assert checkpoint["rollbacks"] == 2


def test_rollback_deletes_later_rows(train_with_explosions, tmp_path):
    """Rows between the good checkpoint and the failure are replaced, not written twice."""
    train_with_explosions(tmp_path, explosions=1, rollbacks=1, log_interval=8)
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [*range(8, 104, 8)]
    assert ["rollbacks" in row for row in rows] == [row["images"] > 32 for row in rows]


def test_rollback_changes_the_order(digits):
    """Each rollback has a seed of its own; with the same order a run might fail again."""
    recipe = MnistRecipe(generator_channels=4, discriminator_channels=1, z_dim=4, seed=2**64 - 1)
    state, seeds = make_initial_state(recipe, digits, torch.device("cpu")), []
    for state.rollbacks in range(4):
        seeds.append(training_loop.compute_order_seed(recipe, state))
    assert seeds[0] == recipe.seed
    assert len({*seeds}) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_rollbacks_are_limited(train_with_explosions, tmp_path):
    """After the last rollback, the run fails as it would without rollbacks."""
    with pytest.raises(LossNotFinite, match=f"kept, .*{32:010d}"):
        train_with_explosions(tmp_path, explosions=3, rollbacks=2)


def test_rollback_needs_a_good_checkpoint(train, tmp_path):
    """A run without a good checkpoint fails despite its rollbacks."""
    with pytest.raises(LossNotFinite, match="no checkpoint was saved yet"):
        train(tmp_path, learning_rate=1e30, schedule=Schedule(24, 32, 1_000, rollbacks=5))


def test_rolled_back_run_resumes(train_with_explosions, train, tmp_path, read_files):
    """Rollbacks are part of the state, so a run that stops and resumes is equal."""
    train_with_explosions(tmp_path / "whole", explosions=1, rollbacks=1)
    train_with_explosions(tmp_path / "cut", explosions=1, rollbacks=1)
    shutil.rmtree(find_latest_checkpoint(tmp_path / "cut"))
    train(tmp_path / "cut", resume=True)
    assert read_files(tmp_path / "cut") == read_files(tmp_path / "whole")


@pytest.mark.parametrize("schedule", [Schedule(24, 96, 1_000), Schedule(96, 24, 1_000)])
def test_finite_explosion_is_detected(train, tmp_path, schedule):
    """Losses of many thousands are a divergence, at a row or at a checkpoint."""
    with pytest.raises(Diverged, match=r"after 24 images .* no checkpoint was saved yet"):
        train(tmp_path, learning_rate=5.0, objective="hinge", schedule=schedule)
    assert not list_checkpoints(tmp_path)


def test_collapse_has_a_grace_period(train, tmp_path, poison):
    """Before the grace period ends, equal samples are no collapse."""
    poison(1, 0.0)
    assert train(tmp_path, images=32).images_seen == 32


def test_resume_needs_a_checkpoint(train, tmp_path):
    """The error names the directory without a checkpoint."""
    with pytest.raises(CheckpointError, match=r"no checkpoint under .*checkpoints"):
        train(tmp_path / "nothing", resume=True)


def test_initial_weights_depend_on_the_seed(digits):
    """Initial networks depend on the seed alone and leave PyTorch's global generator unchanged."""
    before = torch.random.get_rng_state()
    recipe = MnistRecipe(generator_channels=4, discriminator_channels=1, z_dim=4)
    first, again = (make_initial_state(recipe, digits, torch.device("cpu")) for _ in range(2))
    torch.rand(1)
    one, other = first.collect_tensors(), again.collect_tensors()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["G/project.weight"], one["G_ema/project.weight"])
    torch.random.set_rng_state(before)


def test_torch_seeds_are_distinct():
    """Steps, seeds and processes do not share a seed."""
    drawn = [draw_torch_seed(s, n, r) for s in range(3) for n in range(20) for r in range(2)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= each < 2**63 for each in drawn)


def test_code_revision_ignores_other_repositories(monkeypatch, tmp_path):
    """Code that is installed below another repository has no revision."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # noqa: S607 - the git of the path
    installed = tmp_path / ".venv" / "provenance.py"
    installed.parent.mkdir()
    installed.write_bytes(Path(provenance.__file__).read_bytes())
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.read_code_revision() == ""


def test_code_revision_is_a_commit(monkeypatch):
    """The revision is a commit, marked if the code has changed. Outside git it is empty."""
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", CODE_REVISION())
    monkeypatch.setenv("PATH", "")
    assert CODE_REVISION() == ""


def test_description_is_json(digits):
    """The description of a run survives JSON and names data, options and versions."""
    about = provenance.describe(MnistRecipe(seed=2**64 - 1), digits)
    assert json.loads(json.dumps(about)) == about
    assert about["options"] == MnistRecipe(seed=2**64 - 1).model_dump()
    assert about["dataset_sha256"] == digits.sha256
    assert about["versions"]["numpy"] == np.__version__
