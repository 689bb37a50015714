"""Tests of requests to other servers, and of counting their responses."""

import numpy as np
import picture_model
import pytest
from peers.messages import Content, count_images, decode_pixels, make_inputs

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.engine.sampling import draw_classes, draw_latents

TWO = parse_mix("count=2").kinds[0]
TWO_PNG = parse_mix("count=2 format=png").kinds[0]
IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)


def test_inputs_equal_those_of_the_server(spec):
    """Turn 3 of two images has the latents and classes of indices 6 and 7."""
    z, class_id = make_inputs(spec, TWO, 5, 3)
    assert np.array_equal(z, draw_latents(5, 6, 2, spec.z_dim))
    assert np.array_equal(class_id[:, 0], draw_classes(5, 6, 2, 2))


@pytest.mark.parametrize("framed", [False, True], ids=["bare", "framed"])
def test_raw_response_is_counted_and_decoded(spec, framed):
    """Pixels follow each other directly, or each picture has its length before it."""
    files = [image.tobytes() for image in IMAGES]
    content = Content(picture_model.pack(files) if framed else b"".join(files), framed)
    assert count_images(content, TWO, spec.image_bytes).images == 2
    assert np.array_equal(decode_pixels(content, TWO, spec), IMAGES)


def test_png_response_is_counted_and_decoded(spec):
    """The peers' programs encode images as PNG."""
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
def test_response_with_other_images_is_a_failure(spec, content):
    """Missing or additional images are not counted."""
    with pytest.raises(CallFailed, match="SHORT_ANSWER"):
        count_images(content, TWO, spec.image_bytes)
