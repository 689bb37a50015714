"""Tests of imagemint.training.losses.captions."""

from functools import partial

import pytest
import torch
from torch import nn

from imagemint.training.datasets.avatar_wordings import CAPTIONS
from imagemint.training.datasets.avatars import VALUES, compute_frequencies
from imagemint.training.datasets.caption_draws import CaptionDraws
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, sum_judgements
from imagemint.training.losses.captions import CaptionReading, WrongCaption
from imagemint.training.losses.gan_loss import Batch
from imagemint.training.networks import (
    AttributeDiscriminator,
    AttributeGenerator,
    CaptionGenerator,
    Shape,
    StackedDiscriminator,
    make_pyramid,
)

SHAPE = Shape(10, 64, 3)
TABLES = {name: compute_frequencies(name) for name in VALUES}


def make_batch(generator):
    """Returns a batch of two people with images of zeros."""
    torch.manual_seed(0)
    D = AttributeDiscriminator(SHAPE, base_channels=2, values=[len(it) for it in VALUES.values()])
    images = torch.zeros(2, 3, 64, 64)
    c = torch.stack([torch.zeros(12), torch.ones(12)]).long()
    found = Batch(0, 0, generator, D, torch.zeros(2, 16), c, c, images, images)
    found.judge_real()
    return found


def test_reading_loss_trains_the_caption_reader():
    """A few steps bring the reader nearer to the captions, and nothing else gets a gradient."""
    torch.manual_seed(0)
    words = len(CAPTIONS.vocabulary)
    painter = partial(
        AttributeGenerator, shape=SHAPE, c_dim=2, base_channels=16, frequencies=TABLES
    )
    G = CaptionGenerator(16, 10, words=words, frequencies=TABLES, painter=painter)
    term, told = CaptionReading(1.0, CaptionDraws(4)), make_batch(G)
    optimizer = torch.optim.Adam(G.parameters(), 1e-3)
    before = term(told)["reading"]
    for _ in range(20):
        loss = term(told)["reading"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < before / 2
    assert {name.split(".")[0] for name, p in G.named_parameters() if p.grad is not None} == {
        "reader"
    }


def test_reading_loss_needs_a_caption_reader():
    """A generator without a caption reader raises TypeError."""
    with pytest.raises(TypeError, match="reads captions"):
        CaptionReading(1.0, CaptionDraws(1))(make_batch(nn.Identity()))


def test_wrong_captions_come_from_the_next_image():
    """D should rate an image with its own caption above the same image with another caption."""
    told = make_batch(nn.Identity())
    term = WrongCaption(0.5, ADVERSARIAL_LOSSES["relativistic"])
    assert term(told)["wrong_caption"].item() == pytest.approx(0.6931, abs=1e-4)
    with torch.no_grad():
        told.D.embeds[0].weight[0] = told.phi_real[0]
        told.D.embeds[0].weight[1] = -told.phi_real[0]
    told.judge_real()
    first = told.D.logits(told.phi_real, told.c) - told.D.logits(told.phi_real, told.c.flip(0))
    expected = torch.nn.functional.softplus(-first).mean()
    assert term(told)["wrong_caption"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_wrong_captions_concern_fitting_judgements():
    """The term of two sizes is the sum of both; judgements without a condition do not count."""
    told = make_batch(nn.Identity())
    values = [len(it) for it in VALUES.values()]
    told.D = StackedDiscriminator(SHAPE, base_channels=2, values=values)
    for embed in (*told.D.large.embeds, *told.D.small.embeds):
        nn.init.normal_(embed.weight)
    told.real = make_pyramid(torch.randn(2, 3, 64, 64), 2)
    told.judge_real()
    fitting = sum_judgements(
        ADVERSARIAL_LOSSES["relativistic"], 4, StackedDiscriminator.CONDITIONAL
    )
    apart = told.D.logits(told.phi_real, told.c.flip(0)) - told.real_logits
    expected = sum(torch.log1p(apart[:, size].exp()).mean() for size in (0, 1))
    found = WrongCaption(0.5, fitting)(told)["wrong_caption"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (apart[:, 2:] == 0).all()
