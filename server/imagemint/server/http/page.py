"""The page: files of this package, served under a strict content security policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from imagemint.server.http.entity_tags import NOT_MODIFIED, is_named, make_etag

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of every answer: nothing from other hosts, and nothing inline."""

# Without it, browsers guess how long a file is valid, and a new page runs with old modules.
_CHECKED = {"cache-control": "no-cache"}
_FILES = Path(__file__).with_name("static")


def make_routes(*, has_metrics: bool) -> Sequence[BaseRoute]:
    """Returns the routes of the page and its files.

    Args:
        has_metrics: whether `/metrics` is served, so that the page reads it.
    """
    content = (_FILES / "index.html").read_bytes()
    if has_metrics:
        content = content.replace(b"<html ", b'<html data-metrics="metrics" ', 1)
    headers = {"etag": make_etag(content), **_CHECKED}

    async def get_page(request: Request) -> Response:
        if is_named(headers["etag"], request.headers.get("if-none-match", "")):
            return Response(status_code=NOT_MODIFIED, headers=headers)
        return Response(content, media_type="text/html", headers=headers)

    return [Route("/", get_page), Mount("/static", _CheckedFiles(directory=_FILES))]


class _CheckedFiles(StaticFiles):
    """Files that browsers ask for again, with the tag of their copy."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 - as Starlette's
        """Returns the answer with a file, or that a copy is still right."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(_CHECKED)
        return response
