"""Tests of runs of translators: every recipe trains, and resumes bit for bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import are_equal, stop_after
from small_translations import CPU, pairs_of, pictures, small_task, train

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.errors import CheckpointError, DatasetError, TrainingError
from imagemint.training.loop.checkpoints import find_latest_checkpoint, read_description
from imagemint.training.loop.examples import (
    Examples,
    arrange_examples,
    read_examples,
    render_sources,
    translate_images,
)
from imagemint.training.loop.provenance import write_options
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.recipes.cyclegan import CycleganRecipe
from imagemint.training.recipes.pix2pix import Pix2pixRecipe
from imagemint.training.recipes.srgan import SrganRecipe
from imagemint.training.recipes.style_transfer import StyleTransferRecipe
from imagemint.training.translators import read_translator


@pytest.mark.parametrize("name", TRANSLATION_RECIPES)
def test_translator_trains_and_resumes(name, tmp_path, monkeypatch, read_files):
    """A run that is stopped between two checkpoints and resumed has the same files, bit for bit."""
    task = small_task(TRANSLATION_RECIPES[name])
    whole = train(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(task, tmp_path / "cut")
    assert are_equal(train(task, tmp_path / "cut", resume=True), whole)
    ours, theirs = (read_files(tmp_path / run) for run in ("whole", "cut"))
    assert ours == theirs
    rows = [json.loads(row) for row in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert np.isfinite([figure for row in rows for figure in row.values()]).all()
    assert {"loss_D", "loss_G"} <= rows[-1].keys()


@pytest.mark.parametrize("name", TRANSLATION_RECIPES)
def test_too_small_images_are_refused(name):
    """Sizes that a network cannot halve are an error that names the option, not a traceback."""
    recipe = TRANSLATION_RECIPES[name]
    task = small_task(recipe, discriminator_layers=3, adversarial_weight=1.0)
    with pytest.raises(DatasetError, match=r"16x16 pixels are too small .* needs 24; .*--size"):
        task.make_initial_state(CPU)
    small_task(recipe, discriminator_layers=3, adversarial_weight=0.0).make_initial_state(CPU)
    if name in ("cyclegan", "style-transfer"):
        odd = SourceForm(30, 30, 3)
        with pytest.raises(DatasetError, match=r"30x30 pixels cannot be halved twice.*of 4"):
            task.recipe.make_generator(odd, (30, 30, 3))


def test_cyclegan_trains_without_a_pool(tmp_path):
    """Without a pool D sees the images of the step, and its loss does not reach G."""
    state = train(small_task(CycleganRecipe, pool=0), tmp_path)
    assert state.images_seen == 24


def test_style_of_a_picture_is_recorded(tmp_path, monkeypatch):
    """A run with a style of one's own resumes in another directory, and an export tells no path."""
    (tmp_path / "pictures").mkdir()
    Image.fromarray(pictures().images[0]).save(tmp_path / "pictures/style.png")
    monkeypatch.chdir(tmp_path)
    task = small_task(StyleTransferRecipe, style="pictures/style.png")
    run = tmp_path / "run"
    train(task.with_images(12), run)
    write_options(run, task.describe("fp32"))
    options = json.loads((run / "options.json").read_text())["options"]
    monkeypatch.chdir("/")
    train(small_task(StyleTransferRecipe, **options), run, resume=True)
    assert read_translator(run).options["style"] == "style.png"


def test_checkpoint_has_the_averaged_translator(tmp_path):
    """What is exported and measured is the moving average, not the network that trains."""
    state = train(small_task(Pix2pixRecipe), tmp_path)
    saved = read_translator(tmp_path).module.state_dict()
    running, averaged = state.G.state_dict(), state.G_ema.state_dict()
    weights = [name for name in saved if name.endswith("weight")]
    assert all(torch.equal(saved[name], averaged[name]) for name in weights)
    assert not any(torch.equal(saved[name], running[name]) for name in weights)


def test_weights_change_and_follow_the_seed(tmp_path):
    """Both networks learn, and another seed gives other weights."""
    first, other = (
        train(small_task(Pix2pixRecipe, seed=seed), tmp_path / str(seed)).collect_tensors()
        for seed in (0, 1)
    )
    begin = small_task(Pix2pixRecipe).make_initial_state(CPU).collect_tensors()
    for name in ("G/stem.0.weight", "D/target.judge.0.weight"):
        assert not torch.equal(first[name], begin[name])
        assert not torch.equal(first[name], other[name])


def test_discriminator_waits(tmp_path):
    """Until the adversarial loss begins, D is unchanged and its losses are 0."""
    task = small_task(SrganRecipe, adversarial_after=16, perceptual_after=16)
    early = train(task.with_images(16), tmp_path / "early").collect_tensors()
    begin = task.make_initial_state(CPU).collect_tensors()
    of_D = [name for name in begin if name.startswith("D/")]
    assert all(torch.equal(early[name], begin[name]) for name in of_D)
    rows = [json.loads(row) for row in (tmp_path / "early/log.jsonl").read_text().splitlines()]
    assert {row["loss_D"] for row in rows} == {0.0}
    assert "perceptual" not in rows[-1]
    late = train(task, tmp_path / "early", resume=True).collect_tensors()
    assert not all(torch.equal(late[name], begin[name]) for name in of_D)
    assert "perceptual" in (tmp_path / "early/log.jsonl").read_text().splitlines()[-1]


def test_judge_is_needed(tmp_path):
    """The error of a perceptual loss without a judge names the option."""
    task = small_task(SrganRecipe)
    with pytest.raises(TrainingError, match="--judge"):
        train(type(task)(task.recipe, task.pairs, task.examples), tmp_path)


def test_other_judge_is_refused(tmp_path):
    """A run continues only with its original judge."""
    task = small_task(SrganRecipe)
    train(task, tmp_path)
    other = type(task.judge)(task.judge.layers, "6" * 64)
    with pytest.raises(CheckpointError, match="judge_sha256 is '5555"):
        train(type(task)(task.recipe, task.pairs, task.examples, other), tmp_path, resume=True)


def test_checkpoint_describes_source_and_target(tmp_path):
    """The checkpoint has the values for the export, and the examples are beside it."""
    task = small_task(SrganRecipe)
    train(task, tmp_path)
    about = read_description(find_latest_checkpoint(tmp_path))
    assert about["source"]["scale"] == 4
    assert about["target"] == [16, 16, 3]
    assert about["task"] == "low-resolution"
    kept = read_examples(tmp_path)
    assert np.array_equal(kept.source, task.examples.source)
    assert np.array_equal(
        read_examples(find_latest_checkpoint(tmp_path)).target, task.examples.target
    )
    with pytest.raises(CheckpointError, match=r"no examples\.safetensors"):
        read_examples(tmp_path / "elsewhere")


def test_grid_shows_source_result_truth():
    """Pictures have the order source, result, truth, and a row has three such groups."""
    task = small_task(SrganRecipe)
    translator = task.make_initial_state(CPU).G_ema.eval()
    images, columns = arrange_examples(translator, task.examples, task.pairs.form)
    assert columns == 9
    source, target = task.examples.source, task.examples.target
    assert np.array_equal(images[0], source[0].repeat(4, 0).repeat(4, 1))
    assert np.array_equal(images[3 + 1], translate_images(translator, source[1:2])[0])
    assert np.array_equal(images[3 * 5 + 2], target[5])


def test_sequence_shows_its_newest_frame_and_mask():
    """The last of several frames is shown, with magenta for masked pixels."""
    pairs = pairs_of("masked-frames")
    source, _ = pairs.make_examples(np.arange(2))
    shown = render_sources(source, pairs.form, pairs.target_shape)
    upside_down = pairs.data.images[:2, ::-1]
    assert np.array_equal(shown[:, :, 8:], upside_down[:, :, 8:])
    assert (shown[:, :, :8] == (255, 0, 255)).all()


def test_examples_are_spread_over_the_data():
    """The examples are 64 evenly spaced pairs, or all of a small split."""
    many = Examples.of(pairs_of("edges", pictures(5, 130)))
    assert len(many.source) == len(many.target) == 64
    assert len(Examples.of(pairs_of("edges", pictures(5, 9))).target) == 9
