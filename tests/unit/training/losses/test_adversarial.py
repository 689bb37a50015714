"""Tests of imagemint.training.losses.adversarial against closed forms."""

import math

import pytest
import torch

from imagemint.training.losses.adversarial import (
    ADVERSARIAL_LOSSES,
    one_centred_penalty,
    smooth_labels,
    sum_judgements,
    zero_centred_penalty,
)

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 0.5])


def softplus(t):
    """Returns log(1 + e^t)."""
    return math.log1p(math.exp(t))


@pytest.mark.parametrize(
    ("objective", "of_discriminator", "of_generator"),
    [
        (
            "saturating",
            (softplus(-2) + softplus(-0.5)) / 2 + (softplus(-1) + softplus(0.5)) / 2,
            -(softplus(-1) + softplus(0.5)) / 2,
        ),
        (
            "non-saturating",
            (softplus(-2) + softplus(-0.5)) / 2 + (softplus(-1) + softplus(0.5)) / 2,
            (softplus(1) + softplus(-0.5)) / 2,
        ),
        ("least-squares", (1 + 0.25) / 4 + (1 + 0.25) / 4, (4 + 0.25) / 4),
        ("wasserstein", -0.25 - 1.25, 0.25),
        ("relativistic", (softplus(-3) + softplus(0)) / 2, (softplus(3) + softplus(0)) / 2),
        ("hinge", (0 + 0.5) / 2 + (0 + 1.5) / 2, (1 - 0.5) / 2),
    ],
)
def test_losses_equal_their_closed_form(objective, of_discriminator, of_generator):
    """Both losses of an objective equal the formulas of the papers, computed by hand."""
    losses = ADVERSARIAL_LOSSES[objective]
    assert losses.discriminator(REAL, FAKE).item() == pytest.approx(of_discriminator)
    assert losses.generator(REAL, FAKE).item() == pytest.approx(of_generator)


def test_judgements_are_summed():
    """The loss of D and of G is the sum over the chosen columns, each by its own formula."""
    real = torch.tensor([[2.0, 9.0, 0.0], [0.5, 9.0, 1.0]])
    fake = torch.tensor([[-1.0, 5.0, 1.0], [0.5, 7.0, -2.0]])
    losses = sum_judgements(ADVERSARIAL_LOSSES["relativistic"], 3, (0, 2))
    of_discriminator = (softplus(-3) + softplus(0)) / 2 + (softplus(1) + softplus(-3)) / 2
    of_generator = (softplus(3) + softplus(0)) / 2 + (softplus(-1) + softplus(3)) / 2
    assert losses.discriminator(real, fake).item() == pytest.approx(of_discriminator)
    assert losses.generator(real, fake).item() == pytest.approx(of_generator)
    assert losses.relative


@pytest.mark.parametrize("objective", sorted(ADVERSARIAL_LOSSES))
def test_gradients_have_opposite_signs(objective):
    """D raises real logits and lowers fake ones. G raises fake ones."""
    losses = ADVERSARIAL_LOSSES[objective]
    # These logits are between the targets of least squares and within the margins of the hinge.
    real, fake = (torch.full((3,), 0.5, requires_grad=True) for _ in range(2))
    losses.discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    losses.generator(real.detach(), fake).backward()
    assert (fake.grad < 0).all()


def test_penalty_is_the_squared_gradient():
    """For logits x.A x / 2 the gradient is A x, so the penalty is the mean of |A x|^2."""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    x = torch.tensor([[1.0, 0.0], [1.0, -2.0]]).reshape(2, 1, 1, 2).requires_grad_()
    flat = x.flatten(1)
    penalty = zero_centred_penalty(((flat @ matrix) * flat).sum(dim=1) / 2, x)
    assert penalty.item() == pytest.approx(((4 + 1) + (0 + 25)) / 2)


def test_penalties_of_several_judgements_add():
    """Two judgements of opposite gradients do not cancel: |3|^2 + |-3|^2 at each of four pixels."""
    x = torch.ones(5, 1, 2, 2, requires_grad=True)
    first = 3 * x.sum(dim=(1, 2, 3))
    penalty = zero_centred_penalty(torch.stack([first, -first], dim=1), x)
    assert penalty.item() == pytest.approx(2 * 4 * 9)


def test_penalty_has_a_gradient():
    """For logits a sum(x), the penalty is a^2 d, whose derivative by a is 2 a d."""
    a = torch.tensor(3.0, requires_grad=True)
    x = torch.ones(4, 1, 2, 2, requires_grad=True)
    zero_centred_penalty(a * x.sum(dim=(1, 2, 3)), x).backward()
    assert a.grad.item() == pytest.approx(2 * 3 * 4)


def test_lipschitz_penalty_is_zero_at_norm_one():
    """For logits 3 sum(x) over four pixels the gradient's norm is 6, so the penalty is 25."""
    x = torch.ones(2, 1, 2, 2, requires_grad=True)
    penalty = one_centred_penalty(3 * x.sum(dim=(1, 2, 3)), x)
    assert penalty.item() == pytest.approx(25)


def test_only_real_labels_are_smoothed():
    """D's best logit for real images is that of the target: log 9 at 0.9.

    Fake ones keep target 0.
    """
    real = torch.tensor([math.log(9.0)], requires_grad=True)
    fake = torch.tensor([0.3], requires_grad=True)
    smooth_labels(0.9).discriminator(real, fake).backward()
    assert real.grad.item() == pytest.approx(0, abs=1e-6)
    assert fake.grad.item() == pytest.approx(torch.sigmoid(fake).item())


@pytest.mark.parametrize("objective", sorted(set(ADVERSARIAL_LOSSES) - {"relativistic"}))
def test_unpaired_generator_losses_ignore_real_logits(objective):
    """The generator loss of an unpaired objective needs no real logits."""
    assert not ADVERSARIAL_LOSSES[objective].paired
    none = torch.empty(0)
    assert torch.isfinite(ADVERSARIAL_LOSSES[objective].generator(none, FAKE))
