"""Tests of all recipes: training, exact resume, export and serving."""

import json
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import are_equal, pictures, small, stop_after, train, train_twice
from torch import nn

from imagemint.client.cli import main
from imagemint.engine import draw_classes, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.spec import TruncationKind
from imagemint.exporter import parity
from imagemint.exporter.export import export_generator
from imagemint.training import recipes
from imagemint.training.classifier.recipes import CLASSIFIER_RECIPES
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.loop import training_loop
from imagemint.training.loop.start import make_initial_state
from imagemint.training.losses.gan_loss import Batch as GanBatch
from imagemint.training.losses.regularizers import Supervision
from imagemint.training.networks import (
    ConditionalGenerator,
    SemiSupervisedDiscriminator,
    Shape,
    draw,
)
from imagemint.training.recipes import (
    CLASSIFIER_TABLE,
    RECIPES,
    TABLE,
    TRANSLATION_RECIPES,
    Entry,
    results,
)
from imagemint.training.recipes.improved import SsganRecipe
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.recipes.results import (
    MISSING,
    RecordedRun,
    format_table,
    read_recorded_runs,
)
from imagemint.training.trained import read_generator

EVERY = {**RECIPES, **TRANSLATION_RECIPES}


@pytest.fixture
def add_from_readme(tmp_path, monkeypatch):
    """The name of a recipe, added as "How to add a recipe" in training/README.md says."""
    readme = (Path(__file__).parents[3] / "training/README.md").read_text()
    section = readme.partition("### How to add a recipe")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)
    file, line = map(textwrap.dedent, blocks)
    (tmp_path / "hinge.py").write_text(file)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    (row,) = eval(f"{{{line}}}", {"Entry": Entry}).items()  # noqa: S307 - a line of our own README
    monkeypatch.setitem(TABLE, *row)
    yield row[0]
    sys.modules.pop("imagemint.training.recipes.hinge", None)


def test_recipe_of_the_readme_trains(tmp_path, monkeypatch, add_from_readme):
    """One file and one line in the table suffice. The recipe trains, resumes and can be read."""
    added = RECIPES[add_from_readme]
    assert added.name == add_from_readme == "hinge"
    train_twice(small(added), tmp_path, monkeypatch)
    assert "gp" in json.loads((tmp_path / "whole/log.jsonl").read_text().splitlines()[0])
    assert read_generator(tmp_path / "whole").recipe == "hinge"


def test_recipe_of_the_readme_is_a_command(add_from_readme, capsys):
    """The command lists the recipe, and its field is an option with its docstring as help."""
    assert main(["train", "--help"]) == 0
    assert "  hinge  " in capsys.readouterr().out
    assert main(["train", add_from_readme, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--penalty-weight" in said
    assert "Weight of the gradient penalty." in said


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "stack"])
def test_recipe_trains_resumes_and_exports(name, tmp_path, monkeypatch):
    """A few steps have finite losses, an interrupted run is equal, and the export runs.

    tests/integration/test_trained_captions.py does the same with `stack`, through a server.
    """
    recipe = small(RECIPES[name])
    train_twice(recipe, tmp_path, monkeypatch)
    rows = [json.loads(row) for row in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert rows
    assert np.isfinite([figure for row in rows for figure in row.values()]).all()

    trained = read_generator(tmp_path / "whole")
    assert trained.class_labels == recipe.list_class_labels(tuple("abcdefghij"))
    monkeypatch.setattr(parity, "SAMPLES", 64)  # a thousand take ten times as long
    bundle = export_generator(trained, name=name, repository=tmp_path / "models")
    spec, backend = bundle.spec, OnnxBackend(bundle, device="cpu")
    kinds = {"psi": TruncationKind.PSI, "threshold": TruncationKind.THRESHOLD}
    kind = None if recipe.latent == "uniform" else kinds[recipe.truncation]
    assert (spec.truncation and spec.truncation.kind) == kind
    z = draw_latents(0, 0, 5, spec.z_dim, distribution=spec.distribution)
    classes = draw_classes(0, 0, 5, spec.num_classes) if spec.conditional else None
    psi = np.linspace(0, 1, 5, dtype=np.float32) if recipe.truncation == "psi" else None
    assert spec.captions == recipe.get_captions()
    tokens = spec.captions.example_tokens[:5] if spec.captions else None
    images = backend.run(Batch(z, classes, tokens=tokens, truncation=psi))
    assert images.shape[1:] == pictures(type(recipe)).images.shape[1:]
    assert images.std() > 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_supports_every_size(name):
    """Both networks can be built for the usual sizes in gray and RGB, and with few channels."""
    recipe = small(RECIPES[name])
    for size, channels in ((28, 3), (32, 1), (64, 3), (128, 1)):
        images = np.zeros((2, size, size, channels), np.uint8)
        data = LabelledImages("toy/train", images, np.arange(2), ("a", "b"), "0" * 64)
        state = make_initial_state(recipe, data, torch.device("cpu"))
        c = None if recipe.condition == "none" else torch.arange(2)
        fake = draw(state.G, torch.zeros(2, recipe.z_dim), c)
        assert state.D(fake, c).shape == (2,)
        assert draw(state.G_ema.eval(), torch.zeros(2, recipe.z_dim), c).shape[1:] == (
            channels,
            size,
            size,
        )


@pytest.mark.parametrize(
    ("shape", "text"),
    [((20, 28), "28x20 pixels, but the networks draw squares"), ((37, 37), "--size")],
)
def test_unsupported_image_size_is_refused(shape, text):
    """The error says how to get a size that the networks support."""
    images = np.zeros((2, *shape, 1), np.uint8)
    data = LabelledImages("toy/train", images, np.arange(2), ("a", "b"), "0" * 64)
    with pytest.raises(DatasetError, match=text):
        make_initial_state(small(RECIPES["dcgan"]), data, torch.device("cpu"))


@pytest.mark.parametrize("augment", ["diff", "ada"])
def test_every_recipe_can_augment(augment, tmp_path, monkeypatch):
    """Augmentation and its adapted probability resume bit for bit."""
    recipe = small(RECIPES["dcgan"], augment=augment, augment_target=0.0)
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train(recipe, tmp_path / "cut")
    assert are_equal(train(recipe, tmp_path / "cut", resume=True), whole)
    assert ("game/augmentation.p" in whole.collect_tensors()) == (augment == "ada")


def test_discriminator_can_take_several_steps(tmp_path):
    """With k = 3 D gets three batches for each step of G, and every image counts."""
    state = train(small(RECIPES["dcgan"], discriminator_steps=3), tmp_path)
    assert (state.step, state.images_seen) == (2, 48)
    steps_of = [next(iter(opt.state.values()))["step"].item() for opt in (state.opt_G, state.opt_D)]
    assert steps_of == [2, 6]


def test_average_weighs_a_step_by_its_images(tmp_path, monkeypatch):
    """The half-life is in images, and a step with k = 3 shows three batches of them."""
    weights, average = [], training_loop.update_ema

    def look(averaged, running, weight):
        weights.append(weight)
        average(averaged, running, weight)

    monkeypatch.setattr(training_loop, "update_ema", look)
    half_life = {"ema_half_life": 24, "ema_ramp_up": 1.0}
    state = train(small(RECIPES["dcgan"], discriminator_steps=3, **half_life), tmp_path)
    assert (state.step, state.images_seen) == (2, 48)
    assert weights == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_optimizers_have_the_options_of_the_recipe(optimizer):
    """Both networks have an optimiser of their own weights with the decay rates of the recipe."""
    options = {"beta1": 0.3, "beta2": 0.8, "adam_epsilon": 1e-5, "learning_rate": 3e-3}
    recipe = small(RECIPES["wgan"], optimizer=optimizer, **options)
    state = make_initial_state(recipe, pictures(recipe), torch.device("cpu"))
    for network, made in ((state.G, state.opt_G), (state.D, state.opt_D)):
        (group,) = made.param_groups
        assert [*map(id, group["params"])] == [*map(id, network.parameters())]
        assert group["lr"] == 3e-3
        if optimizer == "adam":
            assert (group["betas"], group["eps"]) == ((0.3, 0.8), 1e-5)
        else:
            assert group["alpha"] == 0.8


@pytest.mark.parametrize("warm_up", [0, 1, 25, 501])
def test_critic_has_a_warm_up(warm_up):
    """D takes 100 steps before the first steps and every 500th step of G, and otherwise five."""
    recipe = RECIPES["wgan"](warm_up_steps=warm_up)
    done = 0
    for step in range(1_100):
        assert recipe.count_discriminator_steps_before(step) == done
        many = step < warm_up or (warm_up and step % 500 == 0)
        assert recipe.count_discriminator_steps(step) == (100 if many else 5)
        done += recipe.count_discriminator_steps(step)


@pytest.mark.parametrize(("most", "steps"), [(0.4, False), (0.6, True)])
def test_discriminator_skips_steps_when_ahead(tmp_path, monkeypatch, most, steps):
    """A D that leads in half of the pairs steps only if it may lead in more."""
    monkeypatch.setattr(GanBatch, "lead", lambda _: 0.5)
    state = train(small(RECIPES["dcgan"], skip_lead=most), tmp_path)
    assert state.opt_G.state
    assert bool(state.opt_D.state) is steps


def test_discriminator_has_its_own_learning_rate(tmp_path):
    """D's learning rate decays together with G's."""
    recipe = small(
        RECIPES["mnist"], learning_rate=1e-4, discriminator_learning_rate=4e-4, decay_share=1.0
    )
    state = train(recipe, tmp_path)
    sizes = [opt.param_groups[0]["lr"] for opt in (state.opt_G, state.opt_D)]
    assert 0 < sizes[0] < 1e-4
    assert sizes[1] == pytest.approx(4 * sizes[0])


def test_wgan_weights_are_clipped(tmp_path):
    """After a step of WGAN no weight of D exceeds the limit, and some equal it."""
    state = train(small(RECIPES["wgan"], clip=0.01), tmp_path)
    largest = max(parameter.abs().max().item() for parameter in state.D.parameters())
    assert largest == pytest.approx(0.01)


def test_only_some_labels_are_visible():
    """The first labels of each class are visible, and all others are hidden."""
    labels = np.array([1, 0, 1, 1, 0, 0])
    shown = SsganRecipe(labelled=2).select_visible_labels(labels)
    assert shown.tolist() == [1, 0, 1, -1, 0, -1]


def test_labelled_images_come_besides_the_real_batch(monkeypatch, tmp_path):
    """Each D step of ssgan has images with labels, all of which come before one comes again."""
    recipe = small(RECIPES["ssgan"], labelled=2, labelled_batch=5)
    data, seen = pictures(recipe), []

    def look(self, batch):
        assert len(batch.labelled) == 5
        images = batch.labelled.flatten(1).tolist()
        seen.extend(zip(images, batch.y_labelled.tolist(), strict=True))
        return {"supervised": batch.phi_real.sum() * 0}

    monkeypatch.setattr(Supervision, "forward", look)
    train(recipe, tmp_path)
    shown = np.flatnonzero(recipe.select_visible_labels(data.labels) >= 0)
    images = data.images[shown].transpose(0, 3, 1, 2).reshape(len(shown), -1).astype(np.float32)
    known = sorted(zip((images / 127.5 - 1).tolist(), data.labels[shown].tolist(), strict=True))
    assert len(seen) == 6 * 5 > len(shown) == 20
    assert np.allclose(*([image for image, _ in each] for each in (sorted(seen[:20]), known)))
    assert [y for _, y in sorted(seen[:20])] == [y for _, y in known]


def test_ssgan_has_convolutional_networks_too(tmp_path):
    """With ``architecture`` it trains the networks of DCGAN, which older runs have."""
    recipe = small(RECIPES["ssgan"], architecture="convolutional")
    state = train(recipe, tmp_path)
    assert isinstance(state.D, SemiSupervisedDiscriminator)
    assert isinstance(state.G, ConditionalGenerator)
    before = RECIPES["ssgan"].model_validate(RECIPES["ssgan"].complete_options({}))
    assert before.architecture == "convolutional"


def test_ssgan_has_the_epsilon_of_its_authors():
    """Adam adds 1e-4 to the root of the second moment in both networks; 1e-8 in older runs."""
    recipe = RECIPES["ssgan"]
    for options, epsilon in (({}, 1e-4), ({"adam_epsilon": 1e-8}, 1e-8)):
        state = make_initial_state(small(recipe, **options), pictures(recipe), torch.device("cpu"))
        groups = [*state.opt_G.param_groups, *state.opt_D.param_groups]
        assert {group["eps"] for group in groups} == {epsilon}
    assert recipe.complete_options({})["adam_epsilon"] == 1e-8


def test_continuous_codes_are_fewer_than_z_dim():
    """Continuous codes are a part of the latent and cannot be all of it."""
    with pytest.raises(ValueError, match="continuous_codes is 4, should be less than z_dim"):
        RECIPES["infogan"](z_dim=4, continuous_codes=4)


def test_older_checkpoint_resumes(tmp_path):
    """An option that is missing in an older checkpoint has its default."""
    recipe = small(RECIPES["mnist"])
    train(recipe, tmp_path)
    path = next((tmp_path / "checkpoints").glob(f"{48:010d}")) / "checkpoint.json"
    about = json.loads(path.read_text())
    for option in ("skip_lead", "augment", "optimizer", "discriminator_steps"):
        del about["options"][option]
    path.write_text(json.dumps(about))
    longer = recipe.model_copy(update={"images": 56})
    assert train(longer, tmp_path, resume=True).images_seen == 56
    with pytest.raises(CheckpointError, match=r"option skip_lead is 1\.0 there and 0\.5 here"):
        train(longer.model_copy(update={"skip_lead": 0.5}), tmp_path, resume=True)


# --- default networks ---------------------------------------------------------------------------


def count_weights(network):
    """Returns the number of trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["cgan", "projection", "acgan", "infogan", "mnist", "r3gan"])
def test_class_has_a_ninth_of_the_variance(name):
    """The class embedding has 8 numbers beside 64 of the latent, all with a variance of 1.

    With 500 classes the measured share is within a few percent of 8 / 72.
    """
    recipe = RECIPES[name]()
    assert (recipe.c_dim, recipe.z_dim) == (8, 64)
    G = recipe.make_generator(Shape(500, 28, 1)).requires_grad_(requires_grad=False)
    weight = (G.weigh if name == "r3gan" else G.project).weight
    z, y = torch.randn(500, 64), torch.arange(500)
    of_latent, of_class = z @ weight[:, :64].T, G.embed(y) @ weight[:, 64:].T
    share = of_class.var(dim=0).mean() / (of_latent + of_class).var(dim=0).mean()
    assert share.item() == pytest.approx(1 / 9, rel=0.15)


@pytest.mark.parametrize("name", ["dcgan", "lsgan"])
def test_discriminator_mirrors_the_generator(name):
    """D has 0.43 million weights and G 0.79 million, with equal channels at each size."""
    recipe, shape = RECIPES[name](), Shape(0, 28, 1)
    G, D = recipe.make_generator(shape), recipe.make_discriminator(shape)
    assert [round(count_weights(network) / 1e6, 2) for network in (G, D)] == [0.79, 0.43]
    up = [layer.weight.shape[:2] for layer in G.trunk if isinstance(layer, nn.ConvTranspose2d)]
    down = [layer.weight.shape[:2] for layer in D.features if isinstance(layer, nn.Conv2d)]
    assert up == [(128, 64), (64, 32)]
    assert down == [(64, 1), (128, 64), (256, 128)]


# --- descriptions of recipes --------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_described(name):
    """Every recipe has a docstring and a description of every option."""
    recipe = RECIPES[name]
    assert recipe.__doc__ != Recipe.__doc__
    assert all(field.description for field in recipe.model_fields.values())


@pytest.mark.parametrize("name", RECIPES)
def test_table_agrees_with_the_recipe(name):
    """Name and data set in a row of the table are those of the class."""
    recipe = RECIPES[name]
    assert (recipe.name, recipe.dataset) == (name, TABLE[name].dataset)


@pytest.mark.parametrize("name", CLASSIFIER_RECIPES)
def test_classifier_table_agrees_with_the_recipe(name):
    """Name and data set in a row of the table are those of the class."""
    recipe = CLASSIFIER_RECIPES[name]
    assert (recipe.name, recipe().dataset) == (name, CLASSIFIER_TABLE[name].dataset)


def test_recorded_runs_have_full_lengths():
    """The list is written from records without importing recipes, so it repeats their lengths."""
    for name, run in read_recorded_runs().items():
        assert run.full_images == EVERY[name].model_fields["images"].default


def test_table_has_every_recipe():
    """Each recipe has a row, which says if no measurement is recorded."""
    heading, *rows = format_table().splitlines()
    assert heading.split()[0] == "recipe"
    assert [row.split()[0] for row in rows] == list(EVERY)
    recorded = read_recorded_runs()
    assert recorded.keys() <= EVERY.keys()
    for row in rows:
        assert (MISSING in row) == (row.split()[0] not in recorded)


def test_table_scales_the_time_of_equal_networks_alone(monkeypatch):
    """A row has the precision, and a time of the full run unless sizes were others."""

    def note(options):
        return RecordedRun(100, 600, 3.0, "CPU", "good", f"imagemint train NAME {options}")

    runs = {
        "dcgan": note("--precision bf16"),
        "r3gan": note("--generator-channels 64 --images 100"),
    }
    monkeypatch.setattr(results, "read_recorded_runs", lambda: runs)
    rows = {row.split()[0]: row.split() for row in format_table().splitlines()}
    assert (
        " ".join(rows["dcgan"]) == "dcgan mnist 600 images, 18 min CPU, bf16 100 images, 3 min good"
    )
    assert (
        " ".join(rows["r3gan"])
        == "r3gan cifar10 600 images CPU 100 images, 3 min, other sizes good"
    )
