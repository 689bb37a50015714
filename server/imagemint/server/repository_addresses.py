"""Addresses of model repositories, such as s3://bucket/models."""

import re
from urllib.parse import urlsplit

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)


def is_address(repository: str) -> bool:
    """Returns whether a repository is an address for fsspec, and not a directory."""
    return _ADDRESS.fullmatch(repository) is not None


def check_address(address: str) -> None:
    """Checks that an address contains no credentials, which the log would show.

    Raises:
        ValueError: it does, or it is not a valid URL.
    """
    parts = urlsplit(address)
    if parts.password is not None or parts.query:
        raise ValueError(
            "an address holds no password and no query; set credentials in the environment"
        )
