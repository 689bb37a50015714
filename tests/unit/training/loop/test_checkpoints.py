"""Tests of imagemint.training.loop.checkpoints: saving, restoring and refusals."""

import json
import os
import re
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation_report import EvaluationFigure, write_report
from imagemint.training.loop import checkpoints, provenance
from imagemint.training.loop.checkpoints import (
    find_latest_checkpoint,
    list_checkpoints,
    restore,
    save_checkpoint,
)
from imagemint.training.loop.ema import update_ema
from imagemint.training.loop.start import make_initial_state
from imagemint.training.recipes.improved import ImprovedRecipe
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.trained import read_generator

RECIPE = MnistRecipe(z_dim=4, c_dim=2, generator_channels=8, discriminator_channels=2, seed=5)
CPU = torch.device("cpu")


@pytest.fixture
def about(digits):
    """The description of a run."""
    return provenance.describe(RECIPE, digits)


@pytest.fixture
def state(digits):
    """A state whose optimizers have different moments for every parameter."""
    state = make_initial_state(RECIPE, digits, CPU)
    torch.manual_seed(0)
    for optimizer in (state.opt_G, state.opt_D):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    update_ema(state.G_ema, state.G, 0.5)
    state.images_seen, state.step = 640, 10
    state.unlogged = {"loss_D": [0.1, 1 / 3]}
    return state


@pytest.fixture
def saved(tmp_path, state, about):
    """The directory of a run with one checkpoint."""
    save_checkpoint(tmp_path, state, state.G_ema.eval(), about)
    return tmp_path


def edit_description(run, **changes):
    """Changes the description of the newest checkpoint. A value of None removes the key."""
    path = find_latest_checkpoint(run) / "checkpoint.json"
    description = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in description.items() if v is not None}))


def test_state_is_restored(saved, state, about, digits):
    """Every tensor and count is restored, with moments in the memory layout of their parameters."""
    other = make_initial_state(RECIPE, digits, CPU)
    restore(saved, other, about, free=set())
    ours, theirs = state.collect_tensors(), other.collect_tensors()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (other.images_seen, other.step) == (640, 10)
    assert other.unlogged == {"loss_D": [0.1, 1 / 3]}
    for optimizer in (other.opt_G, other.opt_D):
        for parameter, moments in optimizer.state.items():
            assert moments["exp_avg_sq"].stride() == parameter.stride()


def test_tensor_names_are_stable(digits):
    """Old runs resume because tensor names in a checkpoint do not follow names in the code."""
    recipe = ImprovedRecipe(z_dim=4, generator_channels=4, discriminator_channels=1)
    state = make_initial_state(recipe, digits, CPU)
    names = state.collect_tensors().keys()
    assert {name.partition("/")[0] for name in names} == {"G", "D", "G_ema", "game"}
    old = {name: torch.full_like(tensor, 3) for name, tensor in state.collect_tensors().items()}
    assert {"game/terms_D.0.count", "game/terms_G.1.count", "game/terms_D.0.means.0"} <= old.keys()
    state.load_tensors(old)
    assert state.losses.terms_G[1].count == 3


def test_older_description_is_read(saved, about, digits):
    """Checkpoints from before unlogged values and interim marks still resume."""
    edit_description(saved, unlogged=None, interim=None)
    other = make_initial_state(RECIPE, digits, CPU)
    restore(saved, other, about, free=set())
    assert (other.step, other.unlogged) == (10, {})


def test_license_of_the_first_runs_is_that_of_mnist(saved):
    """Checkpoints that record no licence come from runs on MNIST."""
    edit_description(saved, license=None)
    assert read_generator(saved).license == "CC-BY-SA-3.0"


def test_generator_is_restored(saved, state):
    """The averaged generator is read in evaluation mode with its description."""
    trained = read_generator(saved)
    z, y = torch.randn(3, 4), torch.tensor([1, 2, 3])
    read, averaged = trained.module.state_dict(), state.G_ema.state_dict()
    assert all(torch.equal(read[name], averaged[name]) for name in averaged)
    # Some processors sum rows-first and channels-last layouts in a different order.
    torch.testing.assert_close(trained.module(z, y), state.G_ema(z, y), rtol=0, atol=1e-6)
    assert not trained.module.training
    assert (trained.z_dim, trained.image_size, trained.image_channels) == (4, 28, 1)
    assert (trained.recipe, trained.seed, trained.images_seen) == ("mnist", 5, 640)
    assert (trained.dataset, trained.license) == ("mnist/train", "CC0-1.0")
    assert trained.class_labels == tuple("0123456789")
    assert trained.options == RECIPE.model_dump()
    assert trained.evaluations == ()


def test_evaluation_is_read_with_the_generator(saved):
    """Measurements of exactly these weights are read with them."""
    figure = EvaluationFigure("coverage", 0.9, "as told", 100, 0.95)
    write_report(saved / "evaluation.json", read_generator(saved).weights_sha256, [figure])
    assert read_generator(saved).evaluations == (figure,)


def test_no_file_is_a_pickle(saved):
    """A checkpoint has two safetensors files and JSON, so reading it executes no code."""
    files = sorted(find_latest_checkpoint(saved).iterdir())
    assert [file.name for file in files] == [
        "checkpoint.json",
        "generator.safetensors",
        "state.safetensors",
    ]
    json.loads(files[0].read_text())
    for file in files[1:]:
        assert not zipfile.is_zipfile(file)
        with safe_open(file, "pt") as tensors:
            assert "embed.weight" in {name.rsplit("/", 1)[-1] for name in tensors.keys()}  # noqa: SIM118 - no mapping


def test_newest_two_checkpoints_are_kept(tmp_path, state, about):
    """Older regular checkpoints are deleted. Only the newest interim one is kept."""
    plan = [(100, False), (200, False), (250, True), (270, True), (300, False), (310, True)]
    seen = []
    for images, interim in plan:
        state.images_seen = images
        save_checkpoint(tmp_path, state, state.G_ema, about, interim=interim)
        seen.append([int(path.name) for path in list_checkpoints(tmp_path)])
    assert seen == [
        [100],
        [100, 200],
        [200, 250],
        [200, 270],
        [200, 300],
        [300, 310],
    ]


def test_incomplete_checkpoint_is_ignored(saved, state, about, monkeypatch):
    """After a killed save the last checkpoint stays the newest, and the next save cleans up."""

    def die(*_):
        raise MemoryError

    state.images_seen = 1_280
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", die)
        with pytest.raises(MemoryError):
            save_checkpoint(saved, state, state.G_ema, about)
    assert find_latest_checkpoint(saved).name == f"{640:010d}"
    save_checkpoint(saved, state, state.G_ema, about)
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == [
        f"{640:010d}",
        f"{1_280:010d}",
    ]


@pytest.mark.parametrize("damage", ["empty", "state", "generator", "gone"])
def test_damaged_checkpoint_falls_back(saved, state, about, caplog, damage):
    """If the newest checkpoint is damaged, a resume logs it and uses the one before."""
    state.images_seen = 1_280
    newest = save_checkpoint(saved, state, state.G_ema, about)
    if damage == "empty":
        for path in newest.iterdir():
            path.write_bytes(b"")
    elif damage in ("state", "generator"):
        content = bytearray((newest / f"{damage}.safetensors").read_bytes())
        content[-1] ^= 1
        (newest / f"{damage}.safetensors").write_bytes(content)
    else:
        for path in newest.iterdir():
            path.unlink()
    restore(saved, state, about, free=set())
    assert state.images_seen == 640
    assert f"damaged checkpoint: {newest}" in caplog.text
    assert [path.name for path in list_checkpoints(saved)] == [f"{640:010d}"]
    assert newest.with_name(f"{newest.name}.damaged").is_dir()
    state.images_seen = 1_280
    save_checkpoint(saved, state, state.G_ema, about)
    assert find_latest_checkpoint(saved) == newest


def test_damage_may_happen_again(saved, state, about):
    """A checkpoint that is damaged again after a resume is set aside in place of the first one."""
    for turn in (1, 2):
        state.images_seen = 1_280
        newest = save_checkpoint(saved, state, state.G_ema, about)
        (newest / "state.safetensors").write_text(f"{turn}")
        restore(saved, state, about, free=set())
        assert state.images_seen == 640
        aside = newest.with_name(f"{newest.name}.damaged")
        assert (aside / "state.safetensors").read_text() == f"{turn}"


def test_other_entries_are_ignored(saved, state, about):
    """Files, dot-files and other names in checkpoints/ do not disturb a save and do not count."""
    folder = saved / "checkpoints"
    for name in (".DS_Store", "notes.txt", "0000009999", "²", ".0000000123.77x"):
        (folder / name).write_bytes(b"x")
    state.images_seen = 1_280
    save_checkpoint(saved, state, state.G_ema, about)
    assert find_latest_checkpoint(saved).name == f"{1_280:010d}"
    assert (folder / ".DS_Store").exists()


def test_full_disk_keeps_earlier_checkpoints(saved, state, about):
    """A failed write raises one clear error and keeps the earlier checkpoints."""
    state.images_seen = 1_280
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*; the last one is"):
            save_checkpoint(saved, state, state.G_ema, about)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (saved / "checkpoints").iterdir()] == [f"{640:010d}"]


def test_checkpoint_is_flushed_to_disk(tmp_path, state, about, monkeypatch):
    """Files and their directory are flushed before the rename, and the parent after it."""
    flushed, renamed = [], []

    def fsync(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        renamed.append(bool(list_checkpoints(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(tmp_path, state, state.G_ema, about)
    assert set(flushed[:3]) == {"checkpoint.json", "state.safetensors", "generator.safetensors"}
    assert flushed[3].startswith(".")
    assert flushed[4:] == ["checkpoints"]
    assert renamed == [False] * 4 + [True]


# --- refusals -----------------------------------------------------------------------------------


def test_missing_checkpoint_is_refused(tmp_path):
    """The error names the directory without a checkpoint."""
    with pytest.raises(CheckpointError, match=f"no checkpoint under {tmp_path}.*saved none yet"):
        read_generator(tmp_path)


def test_absent_checkpoint_is_explained(tmp_path):
    """The error says if the directory is absent, is a classifier, or contains runs."""
    with pytest.raises(CheckpointError, match="nothing does not exist"):
        find_latest_checkpoint(tmp_path / "nothing")
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "classifier.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it is a classifier, not a run"):
        find_latest_checkpoint(tmp_path / "judge")
    (tmp_path / "mnist" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"name a run in it, such as .*/mnist$"):
        find_latest_checkpoint(tmp_path)


def test_checkpoint_of_another_run_is_refused(saved, state, about):
    """The error lists recipe, data and every option that differs, and nothing is loaded."""
    here = about | {"recipe": "other", "dataset_sha256": "ff"}
    here["options"] = about["options"] | {"batch_size": 32, "seed": 6, "images": 1}
    before = {name: tensor.clone() for name, tensor in state.collect_tensors().items()}
    with pytest.raises(CheckpointError) as refusal:
        restore(saved, state, here, free={"images"})
    text = str(refusal.value)
    assert "recipe is 'mnist' there and 'other' here" in text
    assert (
        f"dataset_sha256 is '{about['dataset_sha256']}' there and 'ff' here (the images, " in text
    )
    assert f"option batch_size is {RECIPE.batch_size} there and 32 here" in text
    assert "option seed is 5 there and 6 here" in text
    assert "option images" not in text
    assert all(
        torch.equal(before[name], tensor) for name, tensor in state.collect_tensors().items()
    )


def test_unknown_option_is_refused(saved, state, about):
    """An option that only one side has counts as a difference."""
    edit_description(saved, options=about["options"] | {"dropout": 0.5})
    with pytest.raises(CheckpointError, match=r"option dropout is 0\.5 there and None here"):
        restore(saved, state, about, free=set())


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("file", ["state.safetensors", "generator.safetensors"])
def test_damaged_tensors_are_refused(saved, state, about, file, damage):
    """A changed byte, a missing end or a missing file is detected before a tensor is used."""
    path = find_latest_checkpoint(saved) / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-9])
    use = {
        "state.safetensors": lambda: restore(saved, state, about, free=set()),
        "generator.safetensors": lambda: read_generator(saved),
    }
    with pytest.raises(CheckpointError, match=re.escape(file)):
        use[file]()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "checkpoint.json: "),
        ("[]", "not a JSON object"),
        ('{"format_version": 2}', "format version 2, this code reads 1"),
        ('{"format_version": 1, "step": 3}', "no generator_sha256, images_seen, options"),
    ],
)
def test_invalid_description_is_refused(saved, content, text):
    """The error says that a description is not JSON, of another format or incomplete."""
    (find_latest_checkpoint(saved) / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=text):
        read_generator(saved)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"recipe": "cifar"}, "recipe 'cifar' is not one of .*mnist"),
        ({"options": {"z_dim": -1}}, "z_dim"),
        ({"options": {"z_dim": 9}}, "size mismatch"),
    ],
)
def test_mismatched_description_is_refused(saved, changes, text):
    """No generator is built for an unknown recipe, invalid options or other shapes."""
    edit_description(saved, **changes)
    with pytest.raises(CheckpointError, match=text):
        read_generator(saved)


def test_mismatched_tensors_are_refused(saved, about, digits):
    """Tensors that do not fit the networks of the options are not loaded."""
    wider = make_initial_state(RECIPE.model_copy(update={"z_dim": 6}), digits, CPU)
    with pytest.raises(CheckpointError, match="does not fit the networks"):
        restore(saved, wider, about, free=set())
