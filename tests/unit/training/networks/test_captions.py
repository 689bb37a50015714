"""Tests of imagemint.training.networks.captions."""

from functools import partial

import numpy as np
import pytest
import torch

from imagemint.training.datasets.avatars import NONE, STYLES, VALUES, compute_frequencies
from imagemint.training.networks import (
    AttributeGenerator,
    CaptionGenerator,
    CaptionReader,
    Shape,
)

TABLES = {name: compute_frequencies(name) for name in VALUES}
READ = {"head": tuple(STYLES), **VALUES}
SKIN, BEARD = list(READ).index("skin"), list(READ).index("beard")


@pytest.fixture
def generator():
    """A tiny generator of people."""
    torch.manual_seed(0)
    painter = partial(
        AttributeGenerator, shape=Shape(10, 64, 3), c_dim=2, base_channels=16, frequencies=TABLES
    )
    return CaptionGenerator(16, 10, words=9, frequencies=TABLES, painter=painter).eval()


@pytest.fixture
def z():
    """Latents."""
    return torch.randn(20_000, 16, generator=torch.Generator().manual_seed(3))


def allow_everything(count):
    """Returns masks that allow every value."""
    return [torch.ones(count, len(values)) for values in READ.values()]


def test_padding_does_not_matter():
    """The reader gives the same result for any amount of padding."""
    torch.manual_seed(0)
    reader = CaptionReader(9, 5)
    tokens = torch.tensor([[3, 1, 4, 0, 0], [1, 5, 9, 2, 6]])
    longer = torch.cat([tokens, torch.zeros(2, 35, dtype=torch.int64)], dim=1)
    assert torch.allclose(reader(tokens), reader(longer), atol=1e-5)
    assert not torch.allclose(reader(tokens)[0], reader(tokens)[1])


def test_unmentioned_values_are_drawn_by_frequency(generator, z):
    """Without a caption every value has its share of the data."""
    codes = generator.compute_codes(z)
    for k, (name, values) in enumerate(VALUES.items(), start=1):
        shares = np.bincount(codes[:, k], minlength=len(values)) / len(z)
        assert shares == pytest.approx(TABLES[name].mean(axis=0), abs=0.015)
    hijab = codes[:, 0] == list(STYLES).index("hijab")
    assert (codes[hijab, BEARD] == VALUES["beard"].index(NONE)).all()


def test_mentioned_values_are_drawn(generator, z):
    """Each allowed value has its share, and no other value is drawn."""
    allowed = allow_everything(len(z))
    allowed[SKIN][:, [0, 1, 2, 6]] = 0
    codes = generator.compute_codes(z, allowed)[:, SKIN]
    shares = np.bincount(codes, minlength=7) / len(z)
    assert shares == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0], abs=0.015)


@pytest.mark.parametrize("value", [-30.0, -5.5, 0.0, 5.5, 30.0])
def test_extreme_latents_draw_allowed_values(generator, value):
    """Even an extreme latent draws only allowed values."""
    allowed = allow_everything(1)
    for each in allowed:
        each[:, :2] = each[:, 3:] = 0
    codes = generator.compute_codes(torch.full((1, 16), value), allowed)[0]
    # A hijab has one style and no beard, whatever the caption says.
    top, beard = VALUES["top"].index("hijab"), VALUES["beard"].index(NONE)
    assert codes.tolist() == [2, top, 2, 2, beard, *[2] * 7]


def test_contradictory_captions_draw_possible_values(generator, z):
    """A caption of a hijab with a beard draws a hijab without a beard."""
    allowed = allow_everything(100)
    allowed[0][:] = torch.nn.functional.one_hot(torch.tensor(2), 10)
    allowed[BEARD][:, 0] = 0
    codes = generator.compute_codes(z[:100], allowed)
    assert (codes[:, 0] == 2).all()
    assert (codes[:, BEARD] == 0).all()


def test_some_value_is_always_allowed(generator):
    """Positive logits are allowed. If there is none, the highest one is."""
    logits = torch.tensor([[3.0, -1.0, 2.0, *[-5.0] * 7], [-4.0, -1.0, -2.0, *[-5.0] * 7]])
    rest = torch.ones(2, sum(generator.sizes) - 10)
    generator.reader.forward = lambda _: torch.cat([logits, rest], dim=1)
    heads = generator.read(torch.ones(2, 3, dtype=torch.int64))[0]
    assert heads.tolist() == [[True, False, True, *[False] * 7], [False, True, *[False] * 8]]


def test_given_and_drawn_attributes_agree(generator, z):
    """The attributes that a latent draws give the same image when they are given explicitly."""
    tokens = torch.tensor([[1, 2, 3, 0]] * 6)
    drawn = generator(z[:6], tokens=tokens)
    assert drawn.shape == (6, 3, 64, 64)
    assert torch.equal(
        drawn, generator(z[:6], generator.compute_codes(z[:6], generator.read(tokens)))
    )
    heads = torch.arange(6)
    assert not torch.equal(generator(z[:6], heads), generator(z[:6]))
