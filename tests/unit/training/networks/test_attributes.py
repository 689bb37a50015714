"""Tests of imagemint.training.networks.attributes and of the recipe with attributes."""

import numpy as np
import pytest
import torch
from small_runs import SCHEDULE, small

from imagemint.training.datasets.avatars import NONE, STYLES, VALUES, compute_frequencies
from imagemint.training.datasets.images import Attribute, LabelledImages
from imagemint.training.loop import training_loop as loop
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.losses.gan_loss import Batch
from imagemint.training.losses.regularizers import Reconstruction
from imagemint.training.networks import AttributeDiscriminator, AttributeGenerator, Shape
from imagemint.training.networks.attributes import compute_limits
from imagemint.training.recipes.avatars import AvatarsRecipe
from imagemint.training.trained import read_generator

CPU = torch.device("cpu")
SHAPE = Shape(10, 64, 3)
TABLES = {name: compute_frequencies(name) for name in VALUES}


@pytest.fixture
def people():
    """Forty images of noise with the attributes of people."""
    rng = np.random.Generator(np.random.Philox(7))
    images = rng.integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)
    attributes = tuple(
        Attribute(name, values, rng.integers(len(values), size=40))
        for name, values in VALUES.items()
    )
    labels = np.arange(40) % 10
    return LabelledImages(
        "avatars64/train", images, labels, tuple(STYLES), "0" * 64, attributes=attributes
    )


def make_generator(**options):
    """Returns a tiny generator of people."""
    torch.manual_seed(0)
    options = {"c_dim": 2, "base_channels": 16, "frequencies": TABLES} | options
    return AttributeGenerator(16, SHAPE, **options).eval()


def test_attributes_are_drawn_by_frequency():
    """Each attribute value has its share among many latents, given the head."""
    z = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3))
    for head in (2, 8):
        codes = make_generator().condition.compute_codes(z, torch.full((len(z),), head))
        for k, name in enumerate(VALUES):
            shares = np.bincount(codes[:, k], minlength=len(VALUES[name])) / len(z)
            assert shares == pytest.approx(TABLES[name][head], abs=0.015)
            assert (shares[TABLES[name][head] == 0] == 0).all()


def test_impossible_values_are_never_drawn():
    """Even an extreme latent never combines a beard with a hijab."""
    z = torch.tensor([-30.0, -8.0, 0.0, 8.0, 30.0])[:, None].expand(-1, 16)
    codes = make_generator().condition.compute_codes(
        z, torch.full((5,), list(STYLES).index("hijab"))
    )
    beard = list(VALUES).index("beard")
    assert codes[:, beard].tolist() == [VALUES["beard"].index(NONE)] * 5


def test_limits_separate_values():
    """The interval of a value has its probability. It is empty for probability 0."""
    limits = compute_limits(np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]))
    assert limits[0] == pytest.approx([0, 40])
    assert limits[1] == pytest.approx([-40, -0.67449], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"scales": False}])
def test_given_and_drawn_attributes_agree(options):
    """The attributes that a latent draws give the same image when they are given explicitly."""
    G = make_generator(**options)
    z = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    y = torch.arange(6)
    told = torch.cat([y[:, None], G.condition.compute_codes(z, y)], dim=1)
    images = G(z, y)
    assert images.shape == (6, 3, 64, 64)
    assert torch.equal(images, G(z, told))
    told[:, 1 + list(VALUES).index("skin")] = 0
    assert not torch.equal(images, G(z, told))


def test_discriminator_depends_on_each_attribute():
    """Every attribute changes the logit once its embedding is not zero."""
    torch.manual_seed(0)
    D = AttributeDiscriminator(SHAPE, base_channels=2, values=[len(it) for it in VALUES.values()])
    for embed in D.embeds:
        torch.nn.init.normal_(embed.weight)
    x = torch.randn(1, 3, 64, 64)
    told = torch.zeros(1, 1 + len(VALUES), dtype=torch.int64)
    before = D(x, told)
    for column in range(told.shape[1]):
        other = told.clone()
        other[0, column] = 1
        assert not torch.equal(D(x, other), before)
    assert D(x, told[:, 0]).shape == D(x).shape == (1,)


def test_reconstruction_is_the_mean_difference():
    """Images with equal attributes are compared, and images with only an equal class are not."""
    G, D = make_generator(), AttributeDiscriminator(SHAPE, base_channels=2, values=[])
    real, fake = torch.zeros(2, 3, 64, 64), torch.full((2, 3, 64, 64), 0.25)
    told = torch.zeros(2, 12, dtype=torch.int64)
    for c, value in ((told, 0.25), (told[:, 0], 0.0)):
        seen = torch.ones(2, 3, 64, 64)  # augmented images do not count
        batch = Batch(
            0, 0, G, D, torch.zeros(2, 16), c, c, seen, -seen, real_images=real, fake_images=fake
        )
        assert Reconstruction()(batch)["reconstruction"].item() == value


def test_network_labels_are_head_and_attributes(people):
    """The labels are the head followed by the attributes in order, or only the head."""
    told = AvatarsRecipe().select_network_labels(people)
    assert told.shape == (40, 12)
    assert (told[:, 0] == people.labels).all()
    assert (told[:, 2] == people.attributes[1].codes).all()
    assert AvatarsRecipe(attributes="hidden").select_network_labels(people).shape == (40,)


def test_run_with_attributes_resumes(people, tmp_path):
    """A run with attributes that stops at a checkpoint and resumes equals an uninterrupted run."""
    recipe = small(AvatarsRecipe, reconstruction_weight=1, decay_share=0)

    def train(run, recipe, *, resume=False):
        task = GeneratorTask(recipe, people)
        return loop.train(
            task, run, schedule=SCHEDULE, device=CPU, quiet=True, resume=resume
        ).collect_tensors()

    whole = train(tmp_path / "whole", recipe)
    train(tmp_path / "cut", recipe.model_copy(update={"images": 24}))
    resumed = train(tmp_path / "cut", recipe, resume=True)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert read_generator(tmp_path / "whole").class_labels == tuple(STYLES)
