"""Tests of imagemint.training.rng."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagemint.training.rng import ShuffledOrder, Stream, draw_latents, make_rng


def test_epoch_is_a_permutation():
    """Every epoch has every image once, in another order."""
    order = ShuffledOrder(50, seed=3)
    epochs = [order.list_indices(50 * epoch, 50) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_parts_of_an_order_equal_the_whole(counts):
    """Pieces of an order, within an epoch or across several, add up to the whole."""
    whole = ShuffledOrder(17, seed=5).list_indices(0, sum(counts))
    starts = np.cumsum([0, *counts[:-1]])
    order = ShuffledOrder(17, seed=5)
    pieces = [order.list_indices(int(n), count) for n, count in zip(starts, counts, strict=True)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_order_can_start_anywhere():
    """A new order that starts in the third epoch equals one that went through the first two."""
    whole = ShuffledOrder(10, seed=1).list_indices(0, 40)
    assert np.array_equal(ShuffledOrder(10, seed=1).list_indices(25, 15), whole[25:])


def test_latents_depend_on_seed_and_step():
    """Latents of a step are float32, near standard normal, and a function of seed and step."""
    z = draw_latents(2, 7, 500, 64)
    assert (z.dtype, z.shape) == (torch.float32, (500, 64))
    assert torch.equal(z, draw_latents(2, 7, 500, 64))
    assert z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(z, draw_latents(2, 8, 500, 64))
    assert not torch.equal(z, draw_latents(3, 7, 500, 64))


def test_positions_share_no_numbers():
    """The numbers of a position are not those of the next one, a few places further on."""
    drawn = [make_rng(5, Stream.LATENTS, position).random(500) for position in range(4)]
    assert len(np.unique(drawn)) == 2_000


def test_streams_are_distinct():
    """Streams of one seed at one position share no numbers, nor do the largest seeds."""
    draws = [
        make_rng(seed, stream, 4).integers(0, 2**63, 100)
        for seed in (2**64 - 1, 2**64 - 2)
        for stream in Stream
    ]
    assert len(np.unique(draws)) == 100 * len(draws)
