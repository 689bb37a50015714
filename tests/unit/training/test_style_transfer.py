"""Tests of style transfer: its losses, the optimisation, the recipe's styles and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imagemint.training.errors import DatasetError, TrainingError
from imagemint.training.losses.style import (
    GramLoss,
    StyleOptions,
    TotalVariation,
    gram_matrices,
    gram_matrix,
)
from imagemint.training.losses.translation import Translated
from imagemint.training.networks.precision import PLAIN
from imagemint.training.recipes.style_transfer import draw_waves, read_style
from imagemint.training.style_command import Stylize
from imagemint.training.style_transfer import stylize


@pytest.fixture
def layers():
    """Returns layers like those of a classifier, with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
    return found.eval().requires_grad_(requires_grad=False)


def noise(*shape, seed=0):
    """Returns random images in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch_of(fake):
    """Returns a step with these results."""
    return Translated(nn.Identity(), fake, fake, fake, None, PLAIN)


def test_gram_matrix_is_the_formula():
    """Each entry is the mean product of two features over all places."""
    features = noise(2, 3, 4, 5)
    found = gram_matrix(features)
    for n, i, j in np.ndindex(2, 3, 3):
        direct = (features[n, i] * features[n, j]).mean()
        assert found[n, i, j] == pytest.approx(float(direct), abs=1e-6)


def test_style_ignores_places(layers):
    """The style of the picture itself has no loss, even if its halves are exchanged."""
    flat = noise(1, 3, 1, 1).expand(1, 3, 16, 16).clone()
    striped = flat.clone()
    striped[..., ::4] = 1
    loss = GramLoss(1.0, layers, [1], striped)
    assert loss(batch_of(striped))["style"] == 0
    moved = loss(batch_of(striped.roll(8, dims=3)))["style"]
    assert moved < 0.01 * loss(batch_of(flat))["style"]
    assert list(loss.state_dict()) == ["gram_0"]


def test_tiles_want_the_style_everywhere(layers):
    """A strong strip has the Gram matrix of the style, and its tiles have not."""
    striped = noise(1, 3, 1, 1).expand(1, 3, 16, 16).clone()
    striped[..., ::4] = 1
    strip = torch.zeros(1, 3, 16, 16)
    strip[..., 12:] = 2 * striped[..., 12:]  # four times the products in a quarter of the places
    whole, tiled = (GramLoss(1.0, layers, [1], striped, tiles=tiles) for tiles in (1, 4))
    assert tiled(batch_of(strip))["style"] > 10 * tiled(batch_of(striped))["style"]
    assert tiled(batch_of(strip))["style"] > 5 * whole(batch_of(strip))["style"]


def test_tiles_have_four_places_a_side():
    """Each tile has its own Gram matrix; small maps have fewer tiles, and no place is left out."""
    features = noise(2, 3, 9, 7)
    found = gram_matrices(features, 4)
    halves = [features[:, :, rows] for rows in (slice(5), slice(5, 9))]
    assert torch.equal(found, torch.stack([gram_matrix(half) for half in halves]))
    assert gram_matrices(features, 1).shape == (1, 2, 3, 3)


def test_total_variation_is_the_formula():
    """It is the mean squared step in both directions."""
    x = noise(2, 3, 5, 6)
    found = TotalVariation()(batch_of(x))["total_variation"]
    down = (x[:, :, 1:] - x[:, :, :-1]).square().mean()
    across = (x[..., 1:] - x[..., :-1]).square().mean()
    assert found == pytest.approx(float(down + across))


def test_optimisation_lowers_the_loss(layers):
    """The result is nearer to the style than the content is, and stays within its range."""
    content = noise(1, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    style = read_style(None, 16, 3)
    found = stylize(content, style, layers, (16, 16, 3), steps=20)
    assert found.after["total"] < 0.7 * found.before["total"]
    assert found.after["style"] < found.before["style"]
    assert found.before["perceptual"] == 0
    assert found.image.abs().max() <= 1


def test_weights_decide(layers):
    """If only the content has a weight, the content is unchanged."""
    content, style = noise(1, 3, 16, 16), read_style(None, 16, 3)
    options = StyleOptions(content=1, style=0, variation=0)
    found = stylize(content, style, layers, (16, 16, 3), options=options, steps=5)
    assert torch.equal(found.image, content)


def test_styles_are_read_at_a_size(tmp_path):
    """The shorter side of a picture is scaled; without one there are waves."""
    Image.fromarray(draw_waves(40)[:, :20]).save(tmp_path / "style.png")
    assert read_style(tmp_path / "style.png", 32, 3).shape == (1, 3, 64, 32)
    assert read_style(tmp_path / "style.png", 32, 1).shape == (1, 1, 64, 32)
    assert read_style(None, 32, 3).shape == (1, 3, 32, 32)
    with pytest.raises(DatasetError, match=r"none\.png: No such file or directory$"):
        read_style(tmp_path / "none.png", 32, 3)


@pytest.mark.parametrize("out", ["result.jpg", "result", "folder.png"])
def test_command_refuses_other_files(tmp_path, out):
    """The result is a PNG, so another suffix is refused before the work begins, as is a folder."""
    (tmp_path / "folder.png").mkdir()
    command = Stylize(content="a.png", style="b.png", out=tmp_path / out, classifier="none")
    with pytest.raises(TrainingError, match=f"{out}: the result is a PNG file"):
        command.run()


@pytest.mark.parametrize("given", ["content", "style"])
def test_command_keeps_its_pictures(tmp_path, given):
    """The result replaces neither of the two pictures."""
    pictures = {"content": tmp_path / "content.png", "style": tmp_path / "style.png"}
    command = Stylize(**pictures, out=tmp_path / f"./{given}.png", classifier="none")
    with pytest.raises(TrainingError, match="would replace a picture"):
        command.run()


def test_command_writes_a_picture(tmp_path, judge, capsys):
    """`imagemint stylize` writes a PNG of the requested size, and prints the losses."""
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    content = rng.integers(0, 256, (28, 28)).astype(np.uint8)
    Image.fromarray(content).save(tmp_path / "content.png")
    Image.fromarray(draw_waves(28)).save(tmp_path / "style.png")
    command = Stylize(
        content=tmp_path / "content.png",
        style=tmp_path / "style.png",
        out=tmp_path / "out/result.png",
        classifier=judge,
        size=28,
        steps=3,
        device="cpu",
    )
    assert command.run() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["after"]["total"] < printed["before"]["total"]
    with Image.open(tmp_path / "out/result.png") as result:
        assert (result.size, result.mode) == ((28, 28), "L")
        assert not np.array_equal(np.asarray(result), content)
