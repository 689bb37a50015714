"""Recognizes requests that a browser sends for a page of another origin."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_OWN_SITES = ("same-origin", "none")


def is_of_other_origin(headers: Headers, allowed: Collection[str]) -> bool:
    """Returns whether a page that may not call this server sent the request.

    Browsers state it in ``Sec-Fetch-Site`` (W3C, "Fetch Metadata Request Headers"), except for
    servers without TLS on another host. There the host of ``Origin`` differs from ``Host``. Other
    clients send neither header.

    Args:
        headers: headers of the request.
        allowed: origins whose pages may call; ``*`` for all.
    """
    origin = headers.get("origin", "")
    if "*" in allowed or origin in allowed:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in _OWN_SITES
    host = headers.get("host", "").lower()
    return bool(origin) and (not host or _get_host(origin) != host)


def _get_host(origin: str) -> str:
    """Returns host and port; '' for ``null`` and for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
