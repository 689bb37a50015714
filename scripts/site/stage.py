"""Gathers the pages of the site: docs/, and the files of the repository that its pages link to.

Links from docs/ to other folders work in a checkout and on a forge, but the site holds docs/ alone.
So every file of the repository that a page links to becomes a page, too: Markdown as it is, other
text as a block of code, and a folder without a README as a list. Links are rewritten to match.
"""

import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

# Pages of the repository that stand in the navigation under names of their own.
NAMED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "source/README.md",
}
_LINK = re.compile(
    r"(?P<before>\]\()(?P<target>(?!https?:|mailto:|#)[^)#\s]+)(?P<rest>#[^)\s]*)?\)"
)
_FENCE = re.compile(r"^ *(`{3,}|~{3,})")
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".proto": "protobuf"}
_LANGUAGES |= {".yaml": "yaml", ".yml": "yaml", ".mjs": "javascript", ".ts": "typescript"}
_LANGUAGES |= {".sh": "sh"}
# Whoever searches the documentation does not look for code.
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
_PICTURES = frozenset({".png", ".webp", ".svg", ".gif", ".jpg"})


class StageError(Exception):
    """A page links to something that is not there."""


def stage(root: Path, out: Path) -> None:
    """Writes all pages of the site into `out`; files that have not changed keep their time.

    Raises:
        StageError: a link leads to nothing.
    """
    waiting = [path.relative_to(root).as_posix() for path in _list_documents(root / "docs")]
    waiting += NAMED
    done: set[str] = set()
    kept: set[Path] = set()
    while waiting:
        source = waiting.pop()
        if source in done:
            continue
        done.add(source)
        content, found = _convert(root, source)
        waiting += found
        target = out / place(source)
        kept.add(target)
        _write(target, content)
    for path in list(_list_documents(out)):
        if path not in kept:
            path.unlink()


def place(source: str) -> str:
    """Returns where a file of the repository is in the site."""
    if source in NAMED:
        return NAMED[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    suffix = PurePosixPath(source).suffix
    ending = "" if suffix == ".md" or suffix in _PICTURES else ".md"
    return f"source/{source}{ending}"


def _list_documents(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path


def _convert(root: Path, source: str) -> tuple[bytes, list[str]]:
    """Returns a page, and the files that it links to."""
    path = root / source
    suffix = path.suffix
    if path.is_dir():
        return _list_folder(path, source)
    if suffix in _PICTURES or (suffix != ".md" and source.startswith("docs/")):
        return path.read_bytes(), []
    if suffix != ".md":
        language = _LANGUAGES.get(suffix, "text")
        text = path.read_text()
        page = f"{_UNSEARCHED}# {path.name}\n\n`{source}`\n\n````{language}\n{text}````\n"
        return page.encode(), []
    found: list[str] = []
    lines, fence = [], ""
    for line in path.read_text().splitlines():
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        rewrite = partial(_rewrite, root, source, found=found)
        lines.append(line if fence else _LINK.sub(rewrite, line))
    return ("\n".join(lines) + "\n").encode(), found


def _list_folder(path: Path, source: str) -> tuple[bytes, list[str]]:
    inside = [each for each in sorted(path.iterdir()) if each.name[0] not in "._"]
    files = {each.name: f"{source}/{each.name}" for each in inside if each.is_file()}
    folders = "".join(f"- {each.name}/\n" for each in inside if each.is_dir())
    links = (
        f"- [{name}]({source.rpartition('/')[2]}/{posixpath.basename(place(file))})\n"
        for name, file in files.items()
    )
    return f"{_UNSEARCHED}# {source}/\n\n{folders}{''.join(links)}".encode(), list(files.values())


def _rewrite(root: Path, source: str, link: re.Match[str], found: list[str]) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    if (root / target).is_dir() and (root / target / "README.md").is_file():
        target = f"{target}/README.md"
    if target.startswith("docs/") and source.startswith("docs/"):
        return link[0]  # the strict build checks it
    if not (root / target).exists():
        raise StageError(f"{source}: the link {link['target']} leads to nothing")
    found.append(target)
    start = posixpath.dirname(place(source)) or "."
    return f"{link['before']}{posixpath.relpath(place(target), start)}{link['rest'] or ''})"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)


def clear(out: Path) -> None:
    """Removes everything that an earlier run wrote."""
    if out.exists():
        shutil.rmtree(os.fspath(out))
