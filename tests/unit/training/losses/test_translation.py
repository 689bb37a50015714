"""Tests of the losses of translators, against their formulas."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.image_pool import ImagePool
from imagemint.training.losses.perceptual import PerceptualLoss, find_feature_layers
from imagemint.training.losses.translation import (
    L1,
    L2,
    CycleConsistency,
    IdentityLoss,
    Translated,
    TranslationLoss,
)
from imagemint.training.networks.precision import PLAIN
from imagemint.training.networks.resnet import TwoWay


class Scale(nn.Module):
    """Multiplies by a learned number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        """Returns the product."""
        return self.factor * x


class Corner(nn.Module):
    """Judges two patches: the means of the upper and of the lower half, and the source's mean."""

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Returns logits [N, 1, 2, 1]."""
        half = x.shape[2] // 2
        halves = [x[:, :, :half].mean((1, 2, 3)), x[:, :, half:].mean((1, 2, 3))]
        logits = torch.stack(halves, dim=1)[:, None, :, None]
        return logits if source is None else logits + source.mean((1, 2, 3))[:, None, None, None]


@pytest.fixture
def images():
    """Returns two sources and two targets."""
    rng = np.random.Generator(np.random.Philox(key=[1, 2]))
    return [torch.from_numpy(rng.uniform(-1, 1, (2, 3, 4, 4)).astype(np.float32)) for _ in "ab"]


@pytest.fixture
def batch(images):
    """Returns a step of a translator that halves on the way there and triples on the way back."""
    return Translated.of(TwoWay(Scale(0.5), Scale(3.0)), *images, PLAIN)


def test_differences_are_means(batch, images):
    """L1 and L2 are the mean absolute and squared differences from the targets."""
    source, target = (image.numpy().astype(np.float64) for image in images)
    assert L1()(batch)["l1"].item() == pytest.approx(np.abs(0.5 * source - target).mean())
    assert L2()(batch)["l2"].item() == pytest.approx(((0.5 * source - target) ** 2).mean())


def test_cycle_adds_both_round_trips(batch, images):
    """Both round trips multiply by 1.5, so that half of each image is the difference."""
    expected = sum(0.5 * image.abs().mean().item() for image in images)
    assert CycleConsistency()(batch)["cycle"].item() == pytest.approx(expected, rel=1e-5)


def test_identity_measures_images_that_are_there(batch, images):
    """Targets are halved and sources tripled, although both should be unchanged."""
    source, target = images
    expected = 0.5 * target.abs().mean() + 2 * source.abs().mean()
    assert IdentityLoss()(batch)["identity"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cycle_needs_a_way_back(images):
    """A translator of one direction is refused by its name."""
    with pytest.raises(TypeError, match="Scale translates in one direction only"):
        CycleConsistency()(Translated.of(Scale(1.0), *images, PLAIN))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", ["least-squares", "hinge", "relativistic"])
def test_adversarial_is_the_mean_over_patches(images, name, conditional):
    """Every patch has the same weight, for D and for G, also if D sees the source."""
    source, target = images
    adversarial = ADVERSARIAL_LOSSES[name]
    loss = TranslationLoss(adversarial, terms=[], weight=3.0, conditional=conditional)
    batch = Translated.of(Scale(0.5), source, target, PLAIN)
    D = nn.ModuleDict({"target": Corner()})

    def logits(x):
        means = x.detach().numpy().reshape(2, 3, 2, 2, 4).mean(axis=(1, 3, 4))
        return torch.from_numpy(
            (means + (source.numpy().mean(axis=(1, 2, 3))[:, None] if conditional else 0)).ravel()
        )

    real, fake = logits(target), logits(0.5 * source)
    of_D, of_G = loss.discriminator_loss(D, batch), loss.generator_loss(D, batch, 0)
    assert of_D.total.item() == pytest.approx(adversarial.discriminator(real, fake).item())
    assert of_G.adversarial.item() == pytest.approx(adversarial.generator(real, fake).item())
    assert of_G.total.item() == pytest.approx(3 * of_G.adversarial.item())


def test_discriminator_loss_does_not_reach_the_generator(images):
    """The step of D leaves no gradient on G, whose graph remains for its own step."""
    G, D = Scale(0.5), nn.ModuleDict({"target": nn.Conv2d(3, 1, 1)})
    loss = TranslationLoss(ADVERSARIAL_LOSSES["hinge"], terms=[L1()])
    batch = Translated.of(G, *images, PLAIN)
    loss.discriminator_loss(D, batch).total.backward()
    assert G.factor.grad is None
    loss.generator_loss(D, batch, 0).total.backward()
    assert G.factor.grad is not None


def test_both_sides_are_judged(batch, images):
    """With a way back, the losses of both discriminators are added up."""
    source, target = images
    least = ADVERSARIAL_LOSSES["least-squares"]
    loss = TranslationLoss(least, terms=[])
    both = nn.ModuleDict({"target": Corner(), "source": Corner()})
    parts = [
        least.discriminator(*(Corner()(x).flatten() for x in pair))
        for pair in ((target, 0.5 * source), (source, 3 * target))
    ]
    found = loss.discriminator_loss(both, batch).total
    assert found.item() == pytest.approx(sum(parts).item(), rel=1e-5)


def test_terms_count_by_weight_and_time(batch):
    """A term adds its weight times its value after its number of images, and so does D."""
    D = nn.ModuleDict({"target": Corner()})
    loss = TranslationLoss(
        ADVERSARIAL_LOSSES["least-squares"], terms=[L1(2.0), L2(5.0, after=8)], after=8
    )
    early, late = (loss.generator_loss(D, batch, seen) for seen in (7, 8))
    l1, l2 = L1()(batch)["l1"], L2()(batch)["l2"]
    assert (loss.is_adversarial(7), loss.is_adversarial(8)) == (False, True)
    assert early.total.item() == pytest.approx(2 * l1.item())
    expected = 2 * l1 + 5 * l2 + late.adversarial
    assert late.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert [name for name, _ in late.terms] == ["l1", "l2"]


def test_perceptual_compares_scaled_features(images):
    """Each layer's squared difference is divided by the mean square of the target's features."""
    source, target = images
    judge = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    batch = Translated.of(Scale(0.5), source, target, PLAIN)
    found = PerceptualLoss(1.0, judge, [1, 2])(batch)["perceptual"].item()
    weight, bias = (p.detach().numpy() for p in judge[0].parameters())

    def features(x):
        maps = np.einsum("nchw,oc->nohw", x.numpy(), weight[:, :, 0, 0]) + bias[:, None, None]
        maps = np.maximum(maps, 0)
        return maps, maps.reshape(2, 2, 2, 2, 2, 2).mean(axis=(3, 5))

    parts = [
        ((ours - theirs) ** 2).mean() / (theirs**2).mean()
        for ours, theirs in zip(features(0.5 * source), features(target), strict=True)
    ]
    assert found == pytest.approx(np.mean(parts), rel=1e-4)


def test_perceptual_leaves_the_judge_alone(images):
    """The judge is not trained or part of checkpoints, and G learns through it."""
    judge = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    term = PerceptualLoss(1.0, judge, [1])
    G = Scale(0.5)
    term(Translated.of(G, *images, PLAIN))["perceptual"].backward()
    assert G.factor.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in judge.parameters())
    assert not term.state_dict()
    assert not list(term.parameters())


def test_feature_layers_are_the_last_of_each_size():
    """The last layer of each size is used; features without places are not."""
    judge = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    assert find_feature_layers(judge, (8, 8, 3)) == [1, 3]
    with pytest.raises(ValueError, match="no feature maps"):
        find_feature_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (2, 2, 3))


def test_pool_swaps_half_of_the_images():
    """While the pool fills, images pass.

    Then about half are exchanged, and none is lost or repeated.
    """
    pool = ImagePool(4, (1, 1, 1))
    numbered = torch.arange(400.0).view(-1, 4, 1, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        shown = torch.stack([pool(images) for images in numbered])
    assert torch.equal(shown[0], numbered[0])
    swapped = (shown != numbered).float().mean().item()
    assert 0.35 < swapped < 0.65
    everything = torch.cat([shown.flatten(), pool.images.flatten()])
    assert set(numbered.flatten().tolist()) <= set(everything.tolist())


@pytest.mark.parametrize("size", [0, 2])
def test_nothing_flows_through_a_pool(size):
    """D learns from the images, and G does not, with a pool and without one."""
    images = torch.ones(2, 1, 1, 1, requires_grad=True)
    shown = ImagePool(size, (1, 1, 1))(images)
    assert torch.equal(shown, images)
    assert not shown.requires_grad


def test_pool_is_part_of_the_state():
    """A state dict restores the images and their number."""
    pool, other = ImagePool(3, (1, 2, 2)), ImagePool(3, (1, 2, 2))
    pool(torch.ones(2, 1, 2, 2))
    other.load_state_dict(pool.state_dict())
    assert other.filled == 2
    assert torch.equal(other.images, pool.images)
