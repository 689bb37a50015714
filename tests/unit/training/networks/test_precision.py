"""Tests of imagemint.training.networks.precision: precision and compilation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import small
from small_runs import train as train_recipe

from imagemint.training.errors import CheckpointError
from imagemint.training.loop.checkpoints import find_latest_checkpoint
from imagemint.training.losses.gan_loss import Batch, GanLoss
from imagemint.training.losses.ramp import CosineRamp
from imagemint.training.losses.regularizers import LipschitzPenalty, ZeroCentredPenalties
from imagemint.training.networks import ConditionalGenerator, ProjectionDiscriminator, precision
from imagemint.training.networks.precision import Passes, choose_precision
from imagemint.training.recipes import RECIPES

BF16 = Passes("bf16")


@pytest.fixture
def batch():
    """A function that shows eight images to a small discriminator, differentiable by the images."""

    def start(passes):
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            D = ProjectionDiscriminator(0, base_channels=8, image_channels=1)
            real, fake = torch.randn(2, 8, 1, 28, 28)
        y = torch.zeros(8, dtype=torch.int64)
        batch = Batch(0, 0, torch.nn.Identity(), D, y, y, None, real, fake, passes=passes)
        GanLoss().show_discriminator(batch, by_images=True)
        return batch

    return start


def test_precision_depends_on_the_device(monkeypatch):
    """A CPU computes in fp32, and a GPU in bf16 if it supports that."""
    assert choose_precision(torch.device("cpu")) == "fp32"
    for able, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, able=able, **_: able)
        assert choose_precision(torch.device("cuda")) == expected


def test_precisions_are_compared_without_random_numbers(monkeypatch):
    """The clock of this test advances by two in bf16, by one in fp32 and by ten at first.

    One thread computes, and the number of threads is what it was before.
    """
    now, passes = 0, []

    def convolve(x, weight, padding, convolve=torch.nn.functional.conv2d):
        nonlocal now
        result = convolve(x, weight, padding=padding)
        now += (2 if result.dtype == torch.bfloat16 else 1) if len(passes) > 1 else 10
        passes.append(result.dtype)
        used.append(torch.get_num_threads())
        return result

    monkeypatch.setattr(precision.functional, "conv2d", convolve)
    monkeypatch.setattr(precision, "time", SimpleNamespace(process_time=lambda: now))
    threads, used = torch.get_num_threads() + 1, []
    torch.set_num_threads(threads)
    state = torch.get_rng_state()
    try:
        assert precision.compare_precisions(torch.device("cpu")) == 2.0
        assert (used, torch.get_num_threads()) == ([1] * 22, threads)
    finally:
        torch.set_num_threads(threads - 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert passes == [torch.float32, torch.bfloat16] * 11


def test_only_layers_compute_in_bf16():
    """Numbers are bfloat16 within a pass and float32 outside it."""
    inside = []
    G = ConditionalGenerator(4, 0, c_dim=0, base_channels=8, image_channels=1)
    G.trunk[1].register_forward_hook(lambda _, given, __: inside.append(given[0].dtype))
    z = torch.randn(2, 4)
    assert BF16.draw(G, z, None).dtype == torch.float32
    assert Passes().draw(G, z, None).dtype == torch.float32
    assert inside == [torch.bfloat16, torch.float32]
    assert {p.dtype for p in G.parameters()} == {torch.float32}


def test_penalties_are_close_in_bf16(batch):
    """R1, R2, WGAN-GP and their gradients are close to those in fp32."""
    penalties = [ZeroCentredPenalties(CosineRamp(1.0, 1.0, 0), 1), LipschitzPenalty()]
    found = []
    for passes in (Passes(), BF16):
        looked = batch(passes)
        parts = {name: part for penalty in penalties for name, part in penalty(looked).items()}
        assert {part.dtype for part in parts.values()} == {torch.float32}
        sum(parts.values()).backward()
        slopes = torch.cat([p.grad.flatten() for p in looked.D.parameters() if p.grad is not None])
        found.append((torch.stack([*parts.values()]), slopes))
    (exact, exact_slopes), (near, near_slopes) = found
    assert torch.allclose(near, exact, rtol=0.03)
    assert not torch.equal(near, exact)
    assert torch.cosine_similarity(near_slopes, exact_slopes, dim=0) > 0.99


@pytest.mark.parametrize("name", ["mnist", "wgan-gp", "improved", "style", "sngan", "msg"])
def test_bf16_trains_and_resumes(name, tmp_path):
    """Losses are finite, the state stays float32, and an interrupted run equals the whole one."""
    recipe = small(RECIPES[name], images=32, decay_share=0)
    whole = train_recipe(recipe, tmp_path / "whole", passes=BF16).collect_tensors()
    rows = [json.loads(row) for row in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert np.isfinite([figure for row in rows for figure in row.values()]).all()
    floating = {t.dtype for t in whole.values() if t.is_floating_point()}
    assert floating <= {torch.float32, torch.float64}
    half = recipe.model_copy(update={"images": 16})
    train_recipe(half, tmp_path / "cut", passes=BF16)
    resumed = train_recipe(recipe, tmp_path / "cut", passes=BF16, resume=True).collect_tensors()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_precision_is_kept_by_a_checkpoint(tmp_path):
    """A run resumes only in its own precision. A checkpoint that names none is fp32."""
    recipe = small(RECIPES["dcgan"], images=16)
    longer = recipe.model_copy(update={"images": 24})
    train_recipe(recipe, tmp_path, passes=BF16)
    path = find_latest_checkpoint(tmp_path) / "checkpoint.json"
    about = json.loads(path.read_text())
    assert about["precision"] == "bf16"
    with pytest.raises(CheckpointError, match="precision is bf16 there and fp32 here"):
        train_recipe(longer, tmp_path, resume=True)
    del about["precision"]
    path.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="precision is fp32 there and bf16 here"):
        train_recipe(longer, tmp_path, passes=BF16, resume=True)
    assert train_recipe(longer, tmp_path, resume=True).images_seen == 24


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from PyTorch's compiler
@pytest.mark.parametrize("name", ["mnist", "wgan-gp"])
def test_compiled_run_equals_eager(name, tmp_path, monkeypatch):
    """Compiled passes compute the same. Passes that are differentiated twice stay eager.

    The compiler runs without its last stage, which takes a minute. It refuses the same things, such
    as second derivatives.
    """
    compile_, calls = torch.compile, []

    def watched(function):
        compiled = compile_(function, backend="aot_eager")

        def call(*given):
            calls.append(function.__name__)
            return compiled(*given)

        return call

    recipe = small(RECIPES[name], images=16, discriminator_steps=1)
    eager = train_recipe(recipe, tmp_path / "eager").collect_tensors()
    monkeypatch.setattr(torch, "compile", watched)
    compiled = train_recipe(
        recipe, tmp_path / "compiled", passes=Passes(compiled=True)
    ).collect_tensors()
    assert all(torch.allclose(eager[key], compiled[key], atol=1e-5) for key in eager)
    # Of two steps of mnist the first has penalties, so D runs compiled half as often there.
    assert (calls.count("draw"), calls.count("_discriminate")) == {
        "mnist": (2, 6),
        "wgan-gp": (2, 6),
    }[name]
