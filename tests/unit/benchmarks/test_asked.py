"""What peers are asked for, and how their answers are counted."""

import numpy as np
import picture_model
import pytest
from peers.asked import Content, count_images, decode_pixels, make_inputs

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.engine.sampling import drawn_classes, latents

TWO = parse_mix("count=2").asks[0]
TWO_PNG = parse_mix("count=2 format=png").asks[0]
IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)


def test_inputs_are_those_that_our_server_draws(spec):
    """Turn 3 of two images each has the latents and classes of the indices 6 and 7."""
    z, class_id = make_inputs(spec, TWO, 5, 3)
    assert np.array_equal(z, latents(5, 6, 2, spec.z_dim))
    assert np.array_equal(class_id[:, 0], drawn_classes(5, 6, 2, 2))


@pytest.mark.parametrize("framed", [False, True], ids=["bare", "framed"])
def test_raw_answer_is_counted_and_read(spec, framed):
    """Pixels one after the other, or each picture with its length before it."""
    files = [image.tobytes() for image in IMAGES]
    content = Content(picture_model.pack(files) if framed else b"".join(files), framed)
    assert count_images(content, TWO, spec.image_bytes).images == 2
    assert np.array_equal(decode_pixels(content, TWO, spec), IMAGES)


def test_png_answer_is_counted_and_read(spec):
    """What the peers' programs make of images."""
    content = Content(picture_model.pack(picture_model.encode_pngs(IMAGES)), framed=True)
    assert count_images(content, TWO_PNG, spec.image_bytes).images == 2
    assert np.array_equal(decode_pixels(content, TWO_PNG, spec), IMAGES)


@pytest.mark.parametrize(
    "content",
    [
        Content(bytes(6), framed=False),
        Content(bytes(13), framed=False),
        Content(picture_model.pack([b"one"]), framed=True),
        Content(picture_model.pack([b"one", b"two"])[:-1], framed=True),
    ],
    ids=["one-of-two", "no-whole-number", "one-framed", "cut-short"],
)
def test_answer_with_other_images_is_a_failure(spec, content):
    """No image is counted that was not asked for, or did not come."""
    with pytest.raises(CallFailed, match="SHORT_ANSWER"):
        count_images(content, TWO, spec.image_bytes)
