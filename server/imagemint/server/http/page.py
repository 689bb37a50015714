"""The page: files of this package, served under a strict content security policy."""

from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of every answer: nothing from other hosts, and nothing inline."""

_FILES = Path(__file__).with_name("static")


def make_routes() -> Sequence[BaseRoute]:
    """Returns the routes of the page and its files."""

    async def get_page(_: Request) -> FileResponse:
        return FileResponse(_FILES / "index.html", headers={"cache-control": "no-cache"})

    return [Route("/", get_page), Mount("/static", StaticFiles(directory=_FILES))]
