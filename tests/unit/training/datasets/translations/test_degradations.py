"""Tests of imagemint.training.datasets.translations.degradations and holes."""

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets.translations.degradations import (
    Edges,
    Gray,
    LowResolution,
    MotionBlur,
    Unchanged,
)
from imagemint.training.datasets.translations.holes import (
    HIDDEN,
    GlassesMask,
    Holes,
    make_glasses_box,
)
from imagemint.training.errors import DatasetError

ALL = [
    Unchanged(),
    Edges(),
    Gray(),
    LowResolution(),
    MotionBlur(),
    Holes(),
    Holes(boxes=0.5),
    GlassesMask(),
]
ROWS = np.array([3, 40, 41, 7_000_000_000])


@pytest.fixture(scope="module")
def images():
    """Four coloured images, smooth enough to have edges."""
    rng = np.random.Generator(np.random.Philox(key=[5, 0]))
    blocks = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("degradation", ALL, ids=repr)
def test_source_depends_on_image_seed_and_index_only(images, degradation):
    """A source is the same in another batch, and has the announced form."""
    together = degradation(images, 9, ROWS)
    alone = [degradation(images[[i]], 9, ROWS[[i]])[0] for i in reversed(range(4))]
    assert np.array_equal(together, np.stack(alone[::-1]))
    form = degradation.compute_source_form(64, 64, 3)
    assert (together.dtype, together.shape) == (np.uint8, (4, *form.shape))


@pytest.mark.parametrize("degradation", [MotionBlur(), Holes()], ids=repr)
def test_seed_and_index_decide_random_sources(images, degradation):
    """Another seed or index degrades the same image differently."""
    same = images[[0]]
    one = degradation(same, 1, np.array([0]))
    assert not np.array_equal(one, degradation(same, 2, np.array([0])))
    assert not np.array_equal(one, degradation(same, 1, np.array([1])))


def test_edges_are_thin_lines():
    """A step becomes a line one pixel wide, once and where it is; a weak step becomes none."""
    image = np.full((1, 32, 32, 3), 100, np.uint8)
    image[0, 8:24, 8:24, 1] = 200
    lines = Edges()(image, 0, np.array([0]))[0, ..., 0]
    assert set(np.unique(lines)) == {0, 255}
    middle = np.flatnonzero(lines[16] == 0)
    assert middle.tolist() == [7, 23]
    weak = np.where(image == 200, 110, image).astype(np.uint8)
    assert (Edges()(weak, 0, np.array([0])) == 255).all()


def test_gray_is_that_of_pillow(images):
    """The luma agrees with Pillow's conversion in every pixel."""
    gray = Gray()(images, 0, ROWS)
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    assert np.array_equal(gray[..., 0], np.stack(expected))


def test_gray_needs_colours():
    """Gray images cannot be converted to gray sources."""
    with pytest.raises(DatasetError, match="colour"):
        Gray().compute_source_form(28, 28, 1)


def test_small_images_follow_the_kernel():
    """A pixel in the middle is the sum of 16 x 16 pixels with the weights of Keys' cubic."""
    rng = np.random.Generator(np.random.Philox(key=[6, 0]))
    image = rng.integers(0, 256, (1, 64, 64, 1)).astype(np.uint8)
    distance = np.abs(np.arange(16) - 7.5) / 4
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights /= weights.sum()
    patch = image[0, 26 : 26 + 16, 22 : 22 + 16, 0].astype(float)
    # Target pixel 8 covers source pixels 32 to 35, and its kernel 26 to 41; 7 covers 22 to 37.
    found = LowResolution()(image, 0, np.array([0]))[0, 8, 7, 0]
    assert abs(float(found) - weights @ patch @ weights) <= 1


def test_small_images_need_a_multiple():
    """An image that does not divide is refused by its size."""
    with pytest.raises(DatasetError, match="30x30"):
        LowResolution().compute_source_form(30, 30, 3)


def test_blur_is_the_convolution(images):
    """Blurred images are those of a direct convolution, with the kernel of the index."""
    blur = MotionBlur()
    kernel = blur.draw_kernels(9, ROWS)[1]
    size = blur.kernel_size
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1)
    assert (kernel >= 0).all()
    radius = size // 2
    window = images[1, 30 - radius : 31 + radius, 20 - radius : 21 + radius].astype(float)
    expected = np.einsum("ij,ijc->c", kernel, window)
    found = blur(images, 9, ROWS)[1, 30, 20]
    assert np.abs(found - expected).max() <= 0.5 + 1e-9


def test_blur_keeps_flat_images():
    """An image of one colour is unchanged, also at the border."""
    flat = np.full((2, 32, 32, 3), 77, np.uint8)
    assert (MotionBlur()(flat, 0, np.array([0, 1])) == 77).all()


def test_holes_hide_what_the_mask_says(images):
    """The source hides all pixels below the mask, and has all others."""
    indices = np.arange(60)
    sources = Holes(boxes=0.3)(np.resize(images, (60, 64, 64, 3)), 4, indices)
    masks = sources[..., 3]
    assert set(np.unique(masks)) == {0, 255}
    hidden = masks == 255
    assert (sources[..., :3][hidden] == HIDDEN).all()
    assert np.array_equal(sources[..., :3][~hidden], np.resize(images, (60, 64, 64, 3))[~hidden])
    shares = hidden.mean(axis=(1, 2))
    assert 0.005 < shares.min() < shares.max() < 0.3


@pytest.mark.data
def test_box_covers_all_glasses(real_data):
    """The box of the glasses covers every pixel in which a person without them differs."""
    from imagemint.training.datasets import load_dataset  # noqa: PLC0415 - with the data only
    from imagemint.training.datasets.avatars import load_bare  # noqa: PLC0415 - likewise

    rows, bare = load_bare("test", real_data)
    worn = load_dataset("avatars64", "test", real_data).images[rows]
    differs = (worn != bare).any(axis=(0, 3))
    assert differs.any()
    assert not differs[~make_glasses_box(64, 64)].any()
