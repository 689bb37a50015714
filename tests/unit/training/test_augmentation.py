"""Tests of imagemint.training.augmentation."""

from types import SimpleNamespace

import pytest
import torch

from imagemint.training.augmentation import AdaptiveAugmentation, DifferentiableAugmentation

COUNT = 16


@pytest.fixture
def images():
    """RGB images in [-1, 1]."""
    return torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def strong(p=1.0):
    """Adaptive augmentation at a probability."""
    augmentation = AdaptiveAugmentation(0.6)
    augmentation.p.fill_(p)
    return augmentation


@pytest.mark.parametrize("augmentation", [DifferentiableAugmentation(), strong()])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_distorted_by_position(augmentation, images, channels):
    """Images keep their shape and change, by seed and position alone, and let gradients through."""
    x = images[:, :channels].clone().requires_grad_()
    seen = augmentation(x, 1, 2)
    assert seen.shape == x.shape
    assert torch.equal(seen, augmentation(x, 1, 2))
    assert not torch.equal(seen, augmentation(x, 1, 3))
    assert not torch.equal(seen, augmentation(x, 2, 2))
    assert ((seen - x).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    seen.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_differentiable_augmentation_cuts_out(images):
    """Each image has gray pixels where it was cut, at most a quarter of them."""
    seen = DifferentiableAugmentation()(images, 0, 0)
    cut = (seen == 0).all(dim=1).float().mean(dim=(1, 2))
    assert (cut > 0).all()
    assert (cut <= 0.25).all()


def test_adaptive_augmentation_starts_with_nothing(images):
    """At probability 0 images pass as they are; at a half some do."""
    assert torch.equal(strong(0.0)(images, 0, 0), images)
    seen = strong(0.1)(images, 0, 0)
    unchanged = (seen == images).flatten(1).all(dim=1)
    assert 0 < unchanged.sum() < COUNT


def test_probability_follows_overfitting(images):
    """It rises while D is surer of real images than the target, and falls otherwise down to 0."""
    augmentation = AdaptiveAugmentation(0.6, pace=160)
    sure = SimpleNamespace(real_logits=torch.ones(8), real=images)
    unsure = SimpleNamespace(real_logits=torch.tensor([1.0, -1.0]), real=images)
    assert augmentation.heed(sure) == {"augment_p": pytest.approx(0.1)}
    assert augmentation.heed(sure) == {"augment_p": pytest.approx(0.2)}
    assert augmentation.heed(unsure) == {"augment_p": pytest.approx(0.1)}
    for _ in range(3):
        last = augmentation.heed(unsure)
    assert last == {"augment_p": 0.0}
