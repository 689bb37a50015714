"""Checks a built site: what Zensical's strict mode does not report.

Zensical reports links and anchors of Markdown that lead nowhere. It does not report entries of the
navigation without a page, pages that are not in the navigation, links of generated HTML, files from
other hosts, and lists that Python-Markdown takes for text, because no empty line is above them.
"""

import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

# Attributes that make a browser fetch a file; a link to another host is fetched by nobody.
_FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("link", "href"),
}
_NOT_FETCHED = frozenset({"canonical", "alternate", "next", "prev"})


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.lost_lists: list[str] = []
        self._in_paragraph = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self._in_paragraph |= tag == "p"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        for name in ("src", "href"):
            if (tag, name) in _FETCHED and name in values and values.get("rel") not in _NOT_FETCHED:
                self.fetched.append(values[name])

    def handle_endtag(self, tag: str) -> None:
        self._in_paragraph &= tag != "p"

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.lost_lists += re.findall(r"\n((?:-|\d{1,2}\.) \S.{,40})", data)


def find_faults(configuration: Path) -> Iterator[str]:
    """Yields a line for each fault of the site that a `zensical.toml` describes."""
    root = configuration.parent
    project = tomllib.loads(configuration.read_text())["project"]
    pages, site = root / project["docs_dir"], root / project["site_dir"]
    listed = set(_list_pages(project["nav"]))
    present = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    yield from (
        f"{name}: in the navigation, but there is no such page" for name in listed - present
    )
    for name in sorted(present - listed):
        if not name.startswith("source/"):
            yield f"{name}: the page is not in the navigation of {configuration.name}"
    parsed = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in parsed.items():
        name = path.relative_to(site).as_posix()
        if name == "404.html":  # its links begin at the root of a server
            continue
        for start in page.lost_lists:
            yield f"{name}: the list at {start!r} needs an empty line above it"
        for address in page.fetched:
            if urlsplit(address).netloc:
                yield f"{name}: loads {address} from another host"
        for address in [*page.links, *page.fetched]:
            if not _leads_somewhere(address, path, parsed):
                yield f"{name}: the link {address} leads nowhere"


def _list_pages(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        (value,) = entry.values()
        yield from _list_pages(value) if isinstance(value, list) else (value,)


def _leads_somewhere(address: str, path: Path, parsed: dict[Path, _Page]) -> bool:
    if urlsplit(address).scheme or urlsplit(address).netloc:
        return True
    target, anchor = urldefrag(address)
    file = (path.parent / unquote(target)).resolve() if target else path
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        return False
    return not anchor or file not in parsed or unquote(anchor) in parsed[file].ids
