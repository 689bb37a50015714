"""Tests of imagemint.server.http.negotiation."""

import pytest

from imagemint.server.http.negotiation import choose_media_type

JSON, PNG, WEBP = OFFERED = ("application/json", "image/png", "image/webp")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("IMAGE/PNG ; Q=1.0", PNG),
        ("image/*", PNG),
        ("image/webp, image/png", WEBP),
        ("image/webp;q=0.5, image/png", PNG),
        ("image/png;q=0.2, image/*;q=0.8", WEBP),
        ("image/png, */*;q=0.1", PNG),
        ("image/png;q=0.1, */*", JSON),
        ("application/json, image/png", JSON),
        ("image/avif,image/webp,image/png,*/*;q=0.8", WEBP),
        ("image/png;q=0", JSON),
        ("image/png;q=0.000, application/json", JSON),
        ("application/json;q=0", PNG),
        ("application/json;q=0, image/png;q=0", WEBP),
        ("image/*;q=0, image/webp;q=0.1", WEBP),
        ("text/html", JSON),
        ("image/png;q=often", JSON),
        ("image/png;q=1.5", JSON),
        ("image/png;level=1;q=0.4, application/json;q=0.3", PNG),
        (", ;, garbage", JSON),
        ("*/*;q=0", None),
        ("application/json;q=0, image/*;q=0", None),
    ],
)
def test_preferred_type_is_chosen(accept, chosen):
    """Weights count first, then the order of the header, then the order of the offer."""
    assert choose_media_type(accept, OFFERED) == chosen
