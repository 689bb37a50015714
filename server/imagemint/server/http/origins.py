"""Recognizes requests that a browser sends for a page of another origin."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_OWN_SITES = ("same-origin", "none")
# Scripts set it by custom. The value does not matter.
_SCRIPT_HEADER = "x-requested-with"


def is_of_other_origin(headers: Headers, allowed: Collection[str]) -> bool:
    """Returns whether a page that may not call this server sent the request.

    ``X-Requested-With`` shows a script of this server's own page: before a browser sends that
    header for another origin, it asks the server, which answers for allowed origins only. Browsers
    state the relation in ``Sec-Fetch-Site`` (W3C, "Fetch Metadata Request Headers"), except to
    servers without TLS on another host. There the host of ``Origin`` differs from ``Host``; behind
    a proxy that writes its own ``Host``, so does that of a page without the first header. Other
    clients send none of these headers.

    Args:
        headers: headers of the request.
        allowed: origins whose pages may call; ``*`` for all.
    """
    origin = headers.get("origin", "")
    if "*" in allowed or origin in allowed or _SCRIPT_HEADER in headers:
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
