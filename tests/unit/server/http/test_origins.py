"""Tests of recognizing pages of other origins."""

import pytest
from starlette.datastructures import Headers

from imagemint.server.http.origins import is_of_other_origin

PAGE = "https://art.example"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": PAGE, "host": "inner:8000"}, False),
        ({"sec-fetch-site": "same-site", "origin": PAGE}, True),
        ({"sec-fetch-site": "cross-site", "origin": PAGE}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"origin": "http://gan:8000", "host": "gan:8000"}, False),
        ({"origin": "http://GAN:8000", "host": "gan:8000"}, False),
        ({"origin": PAGE, "host": "gan:8000"}, True),
        ({"origin": "null", "host": "gan:8000"}, True),
        ({"origin": "http://[", "host": "gan:8000"}, True),
        ({"origin": "null"}, True),
        ({"origin": PAGE, "host": "inner:8000", "x-requested-with": "imagemint"}, False),
    ],
)
def test_other_origins(headers, expected):
    """A header of scripts, fetch metadata, and without them the host of the page decide."""
    assert is_of_other_origin(Headers(headers), []) is expected


@pytest.mark.parametrize("allowed", [["*"], ["https://other.example", PAGE]])
def test_allowed_origins(allowed):
    """An allowed page may call from another site."""
    headers = Headers({"sec-fetch-site": "cross-site", "origin": PAGE})
    assert not is_of_other_origin(headers, allowed)
