"""Tests of imagemint.training.losses.regularizers and imagemint.training.losses.gan_loss."""

import math

import numpy as np
import pytest
import torch
from small_runs import pictures, small
from torch import nn

from imagemint.training.loop.start import make_initial_state
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, zero_centred_penalty
from imagemint.training.losses.gan_loss import Augmentation, Batch, GanLoss
from imagemint.training.losses.ramp import CosineRamp
from imagemint.training.losses.regularizers import (
    AuxiliaryClassifier,
    FeatureMatching,
    HistoricalAverage,
    LipschitzPenalty,
    LogitDrift,
    Mismatch,
    MutualInformation,
    Supervision,
    WeightClipping,
    ZeroCentredPenalties,
)
from imagemint.training.networks import Discriminator, Pyramid
from imagemint.training.recipes import RECIPES


class Sum(Discriminator):
    """A discriminator whose features are the pixels.

    The logit is twice their sum plus ten times the class index.
    """

    def phi(self, x, c):
        """Returns the pixels."""
        return x.flatten(1)

    def logits(self, phi, c):
        """Returns the logits."""
        return 2 * phi.sum(dim=1) + (0 if c is None else 10 * c)


@pytest.fixture
def batch():
    """Two real images of zeros and two fake images of ones, 2x2 pixels."""
    real, fake = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    y = torch.tensor([0, 1])
    return Batch(0, 0, nn.Identity(), Sum(), torch.tensor([[1.0, 5.0]] * 2), y, None, real, fake)


def show_batch(batch):
    """Shows the batch to D in a way that allows derivatives by images, and returns it."""
    GanLoss().show_discriminator(batch, by_images=True)
    return batch


def test_penalties_apply_to_real_and_fake_images(batch):
    """R1 and R2 are the squared norm 4 * 2^2 of the gradient. Without R2 there is only R1."""
    ramp = CosineRamp(1.0, 1.0, 0)
    both = ZeroCentredPenalties(ramp, 1)(show_batch(batch))
    assert {name: value.item() for name, value in both.items()} == {"r1": 16, "r2": 16}
    assert set(ZeroCentredPenalties(ramp, 1, r2=False)(show_batch(batch))) == {"r1"}


def test_term_is_due_by_interval_and_weight():
    """A term with interval n counts n times every n steps, and never at weight 0."""
    term = ZeroCentredPenalties(CosineRamp(2.0, 0.0, 100), 4)
    gan_loss = GanLoss(terms_D=[term, LipschitzPenalty(0.0)])
    assert gan_loss.list_due_terms(gan_loss.terms_D, 0, 0) == [(term, 4.0)]
    assert gan_loss.list_due_terms(gan_loss.terms_D, 3, 0) == []
    assert gan_loss.list_due_terms(gan_loss.terms_D, 4, 100) == []


def test_lipschitz_penalty_uses_interpolated_images(batch):
    """The slope of the logit is 4 everywhere, so the penalty is (4 - 1)^2."""
    assert LipschitzPenalty()(show_batch(batch))["gp"].item() == pytest.approx(9)


def test_weights_are_clipped_in_place():
    """After clipping no weight exceeds the limit."""
    network = nn.Linear(3, 3)
    nn.init.constant_(network.weight, -7)
    WeightClipping(0.5)(network)
    assert (network.weight == -0.5).all()


def test_mismatch_uses_another_class(batch):
    """With two classes, each image gets the other one. D loses if its logit is higher."""
    batch.c = batch.y
    found = Mismatch(1.0, ADVERSARIAL_LOSSES["relativistic"], 2)(show_batch(batch))[
        "mismatch"
    ].item()
    expected = (math.log1p(math.exp(10)) + math.log1p(math.exp(-10))) / 2
    assert found == pytest.approx(expected)


def test_auxiliary_classifier_uses_the_selected_images(batch):
    """The loss covers real images, generated images or both, as in the paper."""
    batch.D.heads["classes"] = nn.Linear(4, 2)
    nn.init.zeros_(batch.D.heads["classes"].weight)
    batch.D.heads["classes"].bias.data = torch.tensor([0.0, 0.0])
    batch.c = batch.y
    of_discriminator = AuxiliaryClassifier(1.0, real=True, fake=False)(show_batch(batch))
    assert set(of_discriminator) == {"class_real"}
    assert of_discriminator["class_real"].item() == pytest.approx(math.log(2))
    assert set(AuxiliaryClassifier(1.0, real=False, fake=True)(show_batch(batch))) == {"class_fake"}
    as_published = AuxiliaryClassifier(1.0, real=True, fake=True)(show_batch(batch))
    assert set(as_published) == {"class_fake", "class_real"}


def test_drift_is_the_mean_square_of_real_logits(batch):
    """Only the logits of real images count, whatever those of generated images are."""
    shown = show_batch(batch)
    expected = np.square(shown.real_logits.detach().numpy()).mean()
    assert LogitDrift()(shown)["drift"].item() == pytest.approx(expected)
    assert expected != pytest.approx(np.square(shown.fake_logits.detach().numpy()).mean())


@pytest.mark.parametrize("weight", [0.0, 1e-3])
def test_drift_of_progressive_can_be_off(weight):
    """The term is due in each step, or never with a weight of 0, as in older runs."""
    recipe = small(RECIPES["progressive"], drift_weight=weight)
    losses = make_initial_state(recipe, pictures(recipe), torch.device("cpu")).losses
    due = {type(term): share for term, share in losses.list_due_terms(losses.terms_D, 1, 0)}
    assert due == ({LogitDrift: weight} if weight else {})
    assert RECIPES["progressive"].complete_options({})["drift_weight"] == 0.0


def test_supervision_ignores_hidden_labels(batch):
    """Only known labels count. A batch without any has loss 0 and no NaN."""
    batch.D.heads["classes"] = nn.Linear(4, 2, bias=False)
    batch.y = torch.tensor([0, -1])
    assert Supervision()(show_batch(batch))["supervised"].item() == pytest.approx(math.log(2))
    batch.y = torch.tensor([-1, -1])
    assert Supervision()(batch)["supervised"].item() == 0


def test_supervision_prefers_labelled_images(batch):
    """Labelled images of their own are classified in place of the real batch."""
    batch.D.heads["classes"] = nn.Linear(4, 2, bias=False)
    batch.labelled = torch.linspace(-1, 1, 3 * batch.real[0].numel()).view(
        -1, *batch.real.shape[1:]
    )
    batch.y, batch.y_labelled = torch.tensor([-1, -1]), torch.tensor([0, 1, 1])
    found = Supervision()(show_batch(batch))["supervised"]
    scores = batch.D.heads["classes"](batch.D.phi(batch.labelled, None)).detach().numpy()
    likelihoods = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert found.item() == pytest.approx(-np.log(likelihoods[[0, 1, 2], [0, 1, 1]]).mean())


def test_mutual_information_is_that_of_the_codes(batch):
    """The categorical code is the condition. The continuous code is the first element of z."""
    batch.D.heads["code"] = nn.Linear(4, 2)
    nn.init.zeros_(batch.D.heads["code"].weight)
    nn.init.zeros_(batch.D.heads["code"].bias)
    batch.D.heads["continuous"] = nn.Linear(4, 1)
    nn.init.zeros_(batch.D.heads["continuous"].weight)
    nn.init.constant_(batch.D.heads["continuous"].bias, 3.0)
    batch.c = batch.y
    found = MutualInformation(1.0, 1)(show_batch(batch))
    assert found["code"].item() == pytest.approx(math.log(2))
    assert found["continuous"].item() == pytest.approx(0.5 * (3 - 1) ** 2)
    batch.D.heads["continuous"] = nn.Linear(4, 2)
    nn.init.zeros_(batch.D.heads["continuous"].weight)
    nn.init.constant_(batch.D.heads["continuous"].bias, 3.0)
    found = MutualInformation(1.0, 2, 0.1)(batch)
    # This is minus the logarithm of a Gaussian of two codes: a sum over both.
    normal = torch.distributions.Normal(torch.tensor([3.0, 3.0]), 1.0)
    likelihood = normal.log_prob(batch.z) - normal.log_prob(torch.tensor([3.0, 3.0]))
    expected = -0.1 * likelihood.sum(dim=1).mean().item()
    assert found["continuous"].item() == pytest.approx(expected)


def test_feature_matching_compares_means(batch):
    """The means of zeros and ones are 1 apart. G's step needs real images for this term."""
    term = FeatureMatching(1.0)
    GanLoss(terms_G=[term]).show_generator(batch, reads_real=True)
    assert term(batch)["features"].item() == 1.0


def test_generator_step_skips_unused_real_images(batch):
    """If no term of G needs real images, D does not compute their logits."""
    GanLoss(ADVERSARIAL_LOSSES["hinge"]).show_generator(batch, reads_real=False)
    assert batch.real_logits.numel() == 0
    GanLoss(ADVERSARIAL_LOSSES["relativistic"]).show_generator(batch, reads_real=False)
    assert batch.real_logits.tolist() == [0, 0]


def test_historical_average_is_the_mean_of_past_weights(batch):
    """Constant weights cost nothing. After a change by 1 the mean is half-way between."""
    player = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(player.weight)
    term = HistoricalAverage(1.0, player, "history")
    assert term(batch)["history"].item() == 0
    nn.init.ones_(player.weight)
    assert term(batch)["history"].item() == 1
    assert term(batch)["history"].item() == 0.25
    assert set(term.state_dict()) == {"count", "means.0"}


def test_history_equals_its_formula(batch):
    """The term is the squared distance from the mean of all former weights, as is its gradient."""
    player, past = nn.Linear(3, 2), []
    term = HistoricalAverage(0.03, player, "history")
    for step in range(5):
        now = torch.cat([parameter.detach().flatten() for parameter in player.parameters()])
        apart = now - torch.stack(past or [now]).mean(dim=0)
        player.zero_grad()
        found = term(batch)["history"]
        found.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in player.parameters()])
        assert found.item() == pytest.approx(apart.square().sum().item(), rel=1e-4), step
        assert torch.allclose(gradient, 2 * apart, atol=1e-5)
        past.append(now)
        with torch.no_grad():
            for parameter in player.parameters():
                parameter.add_(torch.randn_like(parameter))


def test_weight_of_history_is_an_option():
    """The average of both networks counts in each step with 0.03, or never with a weight of 0."""
    for weight in (0.03, 0.0):
        options = {} if weight else {"history_weight": weight}
        recipe = small(RECIPES["improved"], **options)
        losses = make_initial_state(recipe, pictures(recipe), torch.device("cpu")).losses
        for terms in (losses.terms_D, losses.terms_G):
            due = losses.list_due_terms(terms, 1, 0)
            shares = [share for term, share in due if isinstance(term, HistoricalAverage)]
            assert shares == ([weight] if weight else [])


def test_lead_is_the_share_of_pairs(batch):
    """Fake images of ones have higher logits than real images of zeros in every pair."""
    assert show_batch(batch).lead() == 0.0
    batch.real, batch.fake = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert show_batch(batch).lead() == 1.0


class Double(Augmentation):
    """An augmentation that doubles every pixel."""

    def forward(self, x, seed, position):
        """Returns the images."""
        return 2 * x


def test_penalties_are_by_the_unaugmented_image(batch):
    """An augmentation that doubles the image doubles the slope: |16 * 4| = 64."""
    GanLoss(augmentation=Double()).show_discriminator(batch, by_images=True)
    found = ZeroCentredPenalties(CosineRamp(1.0, 1.0, 0), 1)(batch)
    assert {name: value.item() for name, value in found.items()} == {"r1": 64, "r2": 64}


@pytest.mark.parametrize("augment", ["diff", "ada"])
def test_penalties_are_differentiable_through_augmentation(augment):
    """R1 and R2 differentiate twice through every augmentation, and D gets gradients."""
    recipe = small(RECIPES["msg"], augment=augment)
    state = make_initial_state(recipe, pictures(RECIPES["msg"]), torch.device("cpu"))
    if augment == "ada":
        state.losses.augmentation.p.fill_(0.9)
    z, y = torch.randn(4, recipe.z_dim), torch.zeros(4, dtype=torch.int64)
    real = torch.rand(4, 1, 28, 28) * 2 - 1
    batch = Batch(0, 0, state.G, state.D, z, y, None, real, state.G(z))
    state.losses.show_discriminator(batch, by_images=True)
    sum(ZeroCentredPenalties(CosineRamp(1.0, 1.0, 0), 1)(batch).values()).backward()
    weights = [p.grad for p in state.D.blocks.parameters() if p.grad is not None]
    assert all(torch.isfinite(weight).all() for weight in weights)
    assert any(weight.abs().sum() > 0 for weight in weights)


def test_pyramid_penalty_sums_over_its_images():
    """R1 of a pyramid is the sum of the squared gradient norms by each small image."""
    view = Pyramid(1, 3)
    small_pictures = [torch.randn(2, 1, 8 // f, 8 // f, requires_grad=True) for f in (1, 2, 4)]
    weights = [torch.randn(1, 1, 8 // f, 8 // f) for f in (1, 2, 4)]
    logits = sum(
        (x * w).sum(dim=(1, 2, 3)) ** 2 for x, w in zip(small_pictures, weights, strict=True)
    )
    expected = [
        g.square().sum(dim=(1, 2, 3)) for g in torch.autograd.grad(logits.sum(), small_pictures)
    ]
    x = torch.cat(
        [
            nn.functional.interpolate(p.detach(), scale_factor=f, mode="nearest")
            for p, f in zip(small_pictures, (1, 2, 4), strict=True)
        ],
        dim=1,
    ).requires_grad_()
    seen = [nn.functional.avg_pool2d(x[:, [i]], f) for i, f in enumerate((1, 2, 4))]
    again = sum((p * w).sum(dim=(1, 2, 3)) ** 2 for p, w in zip(seen, weights, strict=True))
    found = zero_centred_penalty(again, x, view.power)
    assert found.item() == pytest.approx(torch.stack(expected).sum(dim=0).mean().item(), rel=1e-5)


def test_feature_matching_replaces_the_adversarial_loss():
    """G's loss in `ssgan` is feature matching. Older runs keep the sum, and `improved` may."""
    recipe = small(RECIPES["ssgan"])
    losses = make_initial_state(recipe, pictures(recipe), torch.device("cpu")).losses
    assert losses.adversarial_weight == 0.0
    assert [type(term) for term in losses.terms_G] == [FeatureMatching]
    before = RECIPES["ssgan"].model_validate(RECIPES["ssgan"].complete_options({}))
    assert before.adversarial_weight == 1.0
    for weight in (0.0, 1.0):
        recipe = small(RECIPES["improved"], feature_weight=weight)
        losses = make_initial_state(recipe, pictures(recipe), torch.device("cpu")).losses
        assert losses.adversarial_weight == 1.0
        due = [type(term) for term, _ in losses.list_due_terms(losses.terms_G, 0, 0)]
        assert (FeatureMatching in due) == bool(weight)
