"""Entity tags, with which callers ask whether their copy is valid (RFC 9110, section 8.8.3)."""

import hashlib

NOT_MODIFIED = 304
"""Status of an answer to a caller whose copy is valid."""


def make_etag(content: bytes) -> str:
    """Returns a strong entity tag of a content, or of everything that determines it."""
    return spell_etag(hashlib.sha256(content).hexdigest())


def spell_etag(sha256: str) -> str:
    """Returns the same tag from the SHA-256 of the content, lower-case hexadecimal."""
    return f'"{sha256[:32]}"'


def is_named(etag: str, header: str) -> bool:
    """Returns whether an `If-None-Match` header names the tag.

    `*` does not: the caller need not have a copy, and the URL may be one that is refused.
    """
    return etag in [each.strip().removeprefix("W/") for each in header.split(",")]
