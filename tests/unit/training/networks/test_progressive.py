"""Tests of imagemint.training.networks.progressive."""

import pytest
import torch
from torch.nn import functional

from imagemint.training.loop.ema import update_ema
from imagemint.training.networks import (
    GrowingDiscriminator,
    GrowingGenerator,
    Grown,
    Shape,
    compute_level,
    count_growing_images,
)

SHAPE = Shape(0, 28, 1)


@pytest.fixture
def players():
    """A generator and a discriminator of three sizes: 7, 14 and 28."""
    torch.manual_seed(0)
    return (
        GrowingGenerator(4, SHAPE, base_channels=8),
        GrowingDiscriminator(SHAPE, base_channels=8),
    )


def set_level(level, *networks):
    """Sets the level of networks."""
    for network in networks:
        network.level.fill_(level)


def measure_block_size(images):
    """Returns the size of the largest blocks of equal pixels in the images."""
    for factor in (4, 2):
        shrunk = functional.avg_pool2d(images, factor)
        again = functional.interpolate(shrunk, scale_factor=factor, mode="nearest")
        if torch.allclose(images, again, atol=1e-6):
            return factor
    return 1


def test_levels_follow_the_plan():
    """A size trains, the next one fades in, and the level after the last size is beyond it."""
    found = [compute_level(images, 2, 100) for images in range(0, 500, 50)]
    assert found == [0, 0, 0, 0.5, 1, 1, 1, 1.5, 3, 3]


@pytest.mark.parametrize(("size", "levels"), [(28, 2), (64, 4)])
def test_networks_are_grown_after_so_many_images(size, levels):
    """One image earlier a size is still faded in."""
    grown = count_growing_images(size, 100)
    assert compute_level(grown - 1, levels, 100) < levels < compute_level(grown, levels, 100)


def test_images_grow_with_the_level(players):
    """A whole level gives images of its size, and a level in between gives the larger one."""
    G, _ = players
    z = torch.randn(3, 4)
    sizes = []
    for level in (0.0, 0.5, 1.0, 1.25, 2.0, 3.0):
        set_level(level, G)
        sizes.append(measure_block_size(G(z)))
    assert sizes == [4, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 1.25, 2.0])
def test_images_may_be_bounded(players, level):
    """Bounded images are the tanh of unbounded ones, also while a size is faded in."""
    free, _ = players
    bounded = GrowingGenerator(4, SHAPE, base_channels=8, bounded=True)
    bounded.load_state_dict(free.state_dict())
    with torch.no_grad():
        for layer in (*free.to_image, *bounded.to_image):
            layer.weight.fill_(0.0)
            layer.bias.fill_(5.0)
    set_level(level, free, bounded)
    z = torch.randn(3, 4)
    assert torch.allclose(free(z), torch.full((3, 1, 28, 28), 5.0))
    assert torch.allclose(bounded(z), torch.full((3, 1, 28, 28), 5.0).tanh())


def test_growth_is_continuous(players):
    """Images and logits are continuous where fading begins and ends."""
    G, D = players
    z, x = torch.randn(3, 4), torch.randn(3, 1, 28, 28)
    view = Grown(D)
    for level in (0.0, 1.0, 2.0):
        for near in (level - 1e-6, level + 1e-6):
            if not 0 <= near <= 2:
                continue
            set_level(level, G, D)
            exact = G(z), view(x), D(view(x))
            set_level(near, G, D)
            for found, expected in zip((G(z), view(x), D(view(x))), exact, strict=True):
                assert torch.allclose(found, expected, atol=1e-3)


def test_fading_mixes_two_sizes(players):
    """Half-way a real image is the mean of both of its sizes."""
    _, D = players
    x, view = torch.randn(2, 1, 28, 28), Grown(D)
    set_level(1.0, D)
    coarse = view(x)
    set_level(1.5, D)
    assert torch.allclose(view(x), (coarse + x) / 2, atol=1e-6)


def test_finished_networks_use_full_images(players):
    """At the last level a real image is unchanged. The penalty is by full images at any level."""
    _, D = players
    set_level(3.0, D)
    x, view = torch.randn(2, 1, 28, 28), Grown(D)
    assert torch.equal(view(x), x)
    for level in (3.0, 0.0):
        set_level(level, D)
        assert torch.allclose(view.power(x), x.square().sum(dim=(1, 2, 3)))


def test_level_is_part_of_the_state(players):
    """The level is saved, constant in evaluation mode, and averaged to its end."""
    G, _ = players
    set_level(1.0, G)
    other = GrowingGenerator(4, SHAPE, base_channels=8)
    other.load_state_dict(G.state_dict())
    z = torch.randn(2, 4)
    assert torch.equal(other.eval()(z), G(z))
    averaged = GrowingGenerator(4, SHAPE, base_channels=8)
    set_level(3.0, G)
    for _ in range(40):
        update_ema(averaged, G, 0.1)
    assert averaged.compute_stage() == (2, 1.0)
