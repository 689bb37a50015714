"""Tests of the networks that translate images, and of the discriminator of patches."""

import pytest
import torch

from imagemint.training.errors import DatasetError
from imagemint.training.networks import (
    PatchDiscriminator,
    ResnetGenerator,
    SRResNet,
    TwoWay,
    UNet,
)
from imagemint.training.networks.patch import check_patches
from imagemint.training.networks.unet import check_halvings


def source_influence(network, size, channels):
    """Returns which rows and columns of a source affect the middle of the result, as bools."""
    x = torch.zeros(1, channels, size, size, requires_grad=True)
    y = network(x)
    middle = y.shape[2] // 2
    y[:, :, middle, middle].sum().backward()
    return x.grad.abs().sum(dim=(0, 1)) > 0


@pytest.mark.parametrize("depth", [1, 3])
def test_unet_keeps_the_size(depth):
    """Any multiple of its halvings is translated to the same size, between -1 and 1."""
    network = UNet(7, 3, base_channels=4, depth=depth)
    x = 9 * torch.randn(2, 7, 16, 24)
    y = network(x)
    assert y.shape == (2, 3, 16, 24)
    assert y.abs().max() <= 1


def test_unet_sees_around_the_bottleneck():
    """The skip at full size passes a single pixel, whose change affects its own result most."""
    torch.manual_seed(0)
    network = UNet(1, 1, base_channels=4, depth=3).eval()
    x = torch.zeros(1, 1, 32, 32)
    changed = x.clone()
    changed[0, 0, 9, 9] = 1
    difference = (network(changed) - network(x)).abs()[0, 0]
    row, column = divmod(int(difference.argmax()), 32)
    assert max(abs(row - 9), abs(column - 9)) <= 2


def test_odd_sizes_are_refused():
    """A size that cannot be halved often enough is refused, and the error names suitable ones."""
    with pytest.raises(DatasetError, match=r"28x28 pixels cannot be halved 3 times.*of 8"):
        check_halvings(28, 28, 3)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_image_is_judged(layers):
    """The size that is the least for a discriminator is enough, and a smaller one is refused."""
    least = 3 * 2**layers
    check_patches(least, least + 1, layers)
    judge = PatchDiscriminator(3, base_channels=2, layers=layers)
    assert judge(torch.zeros(2, 3, least, least)).shape == (2, 1, 1, 1)
    with pytest.raises(DatasetError, match=f"which needs {least}"):
        check_patches(least + 1, least - 1, layers)


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_patches_have_the_size_of_the_paper(layers, patch):
    """One logit depends on a square of 16, 34 or 70 pixels."""
    D = PatchDiscriminator(3, base_channels=2, layers=layers)
    for index, layer in enumerate(D.judge):
        if isinstance(layer, torch.nn.InstanceNorm2d):  # its statistics are those of all patches
            D.judge[index] = torch.nn.Identity()
    seen = source_influence(D, 128, 3)
    assert seen.any(dim=0).sum() == seen.any(dim=1).sum() == patch


def test_patches_see_the_source():
    """A smaller source is enlarged and added to the image, and its change affects the logits."""
    D = PatchDiscriminator(4, base_channels=2, layers=1).eval()
    x, source = torch.randn(2, 3, 16, 16), torch.randn(2, 1, 4, 4)
    logits = D(x, source)
    assert logits.shape[:2] == (2, 1)
    assert not torch.equal(D(x, -source), logits)


def test_resnet_starts_from_the_source():
    """The result of a residual generator is close to the source, but not that of the other one."""
    torch.manual_seed(1)
    x = torch.rand(2, 3, 16, 20) - 0.5
    residual, whole = (
        ResnetGenerator(3, 3, base_channels=2, blocks=1, residual=residual)
        for residual in (True, False)
    )
    assert (residual(x) - x).abs().max() < 0.2
    assert whole(x).shape == x.shape
    assert whole(x).abs().max() <= 1
    with pytest.raises(ValueError, match="cannot be added"):
        ResnetGenerator(1, 3, base_channels=2, blocks=1, residual=True)


def test_two_way_translates_there():
    """It translates to the targets like any translator; the way back is another network."""
    ways = [ResnetGenerator(3, 3, base_channels=2, blocks=1) for _ in range(2)]
    network = TwoWay(*ways)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(network(x), ways[0](x))
    assert not torch.equal(network.back(x), network(x))


@pytest.mark.parametrize("scale", [2, 4])
def test_srresnet_enlarges_any_size(scale):
    """The first result is near bilinear enlargement, at any height and width."""
    torch.manual_seed(2)
    network = SRResNet(3, base_channels=4, blocks=1, scale=scale)
    x = torch.rand(2, 3, 5, 9) - 0.5
    plain = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear")
    assert network(x).shape == (2, 3, 5 * scale, 9 * scale)
    assert (network(x) - plain).abs().max() < 0.2


@pytest.mark.parametrize(("scale", "blocks"), [(2, 1), (4, 1), (4, 3)])
def test_srresnet_knows_its_radius(scale, blocks):
    """Only pixels of the source within the radius affect a result."""
    network = SRResNet(1, base_channels=2, blocks=blocks, scale=scale).double()
    for parameter in network.parameters():  # none may be dead
        torch.nn.init.uniform_(parameter, 0.5, 1.0)
    x = torch.zeros(1, 1, 61, 61, requires_grad=True, dtype=torch.float64)
    y = network(x)
    reach = 0
    for row in range(30 * scale, 31 * scale):  # all sub-pixels of source row 30
        (grad,) = torch.autograd.grad(y[0, 0, row, 30 * scale], x, retain_graph=True)
        rows = (grad[0, 0].abs() > 0).any(dim=1).nonzero().flatten()
        reach = max(reach, 30 - int(rows.min()), int(rows.max()) - 30)
    assert network.radius - 1 <= reach <= network.radius


def test_srresnet_needs_a_power_of_two():
    """Three times the size would need another layer."""
    with pytest.raises(ValueError, match="scale is 3"):
        SRResNet(3, base_channels=2, blocks=1, scale=3)
