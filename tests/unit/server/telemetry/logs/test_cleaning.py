"""Tests of imagemint.server.telemetry.logs.cleaning, which cleans texts for the log."""

import pytest

from imagemint.server.telemetry.logs.cleaning import LONGEST_TEXT, clean, make_cleaner


@pytest.mark.parametrize(
    "text",
    [
        "authorization: Bearer s3cret-token",
        "{'authorization': 'Bearer s3cret-token'}",
        "('authorization', 's3cret-token')",
        "x-api-key=s3cret-token;",
        "x-api-key: imk_s3cret-token",
        "proxy-authorization: Basic s3cret-token",
        "Cookie: s3cret-token",
        "key imk_s3cret-token is unknown",
    ],
)
def test_credentials_are_removed(text):
    """Credentials are removed in any spelling."""
    cleaned = clean(text)
    assert "s3cret" not in cleaned
    assert "…" in cleaned


def test_plain_text_is_unchanged():
    """Other text is unchanged."""
    text = "worker 1 died: basic, bearer: 3 keys; authorization, if any, is required"
    assert clean(text) == text


def test_long_text_is_truncated():
    """The truncated text is marked and has the original length."""
    assert clean("x" * 3_900_000) == "x" * LONGEST_TEXT + "… (3900000 characters)"


@pytest.mark.parametrize("logger", ["grpc._cython.cygrpc", "grpc", "asyncio"])
def test_bytes_of_callers_are_removed(logger):
    """Binary metadata is printed without its name, so it may be a credential."""
    event = {"logger": logger, "event": "Invalid encoding on b'Bearer it\\'s s3cret\\xff'"}
    assert "s3cret" not in make_cleaner(escape=False)(None, "", event)["event"]


def test_control_characters_are_escaped():
    """A line feed must not start another record. An escape sequence must not reach a terminal."""
    event = {
        "event": "a\nb\x1b[2J",
        "model": "c\r\x85\u2028",
        "exception": "T:\n  d\x1b[0m",
        "n": 1,
    }
    cleaned = make_cleaner(escape=True)(None, "", dict(event))
    assert cleaned == {
        "event": r"a\nb\x1b[2J",
        "model": r"c\r\x85\u2028",
        "exception": "T:\n  d\\x1b[0m",
        "n": 1,
    }
