"""Tests of the scripts that build and check the documentation site."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONFIGURATION = """
[project]
docs_dir = "pages"
site_dir = "site"
nav = [{ "Home" = "index.md" }, { "More" = [{ "Gone" = "gone.md" }] }]
"""


@pytest.fixture
def scripts(monkeypatch):
    """Returns a function that imports a module of scripts/site."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts/site"))
    return importlib.import_module


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a file beside the pages of the top folder."""
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "README.md"):
        (tmp_path / name).write_text(f"# {name}\n")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_reasons_of_the_client_are_described(scripts):
    """Each reason that the client gives has a meaning on the page of errors, and its classes."""
    reasons = scripts("client_reasons")
    found = reasons.find_reasons(ROOT / "clients/python/imagemint/client")
    assert found["SERVER_UNREACHABLE"] == {"Unavailable"}
    assert found["CHUNK_OVERDUE"] == {"DeadlineExceeded"}
    (page,) = scripts("errors_page").render().values()
    assert [each for each in found if f"\n| `{each}` |" not in page] == []


def test_reasons_are_found_in_code(scripts, write, tmp_path):
    """They are texts, constants and defaults of classes. One that cannot be read is an error."""
    write(
        "code/a.py",
        """
NAMED: str = "NAMED"
class Lost(Failure):
    default_reason = "LOST"
def fail(error, info):
    raise Lost("text", reason="GONE") from Failure("text", reason=NAMED)
    raise errors.Lost("text", reason=error.reason if info else "")
""",
    )
    reasons = scripts("client_reasons")
    found = {"GONE": {"Lost"}, "LOST": {"Lost"}, "NAMED": {"Failure"}}
    assert reasons.find_reasons(tmp_path / "code") == found
    write("code/deeper/b.py", "raise Lost('text', reason=choose())")
    with pytest.raises(reasons.ReasonError, match=r"b\.py:1: the reason choose\(\) is no text"):
        reasons.find_reasons(tmp_path)
    with pytest.raises(reasons.ReasonError, match="describe the reason GONE"):
        reasons.describe("GONE")


def test_files_outside_docs_become_pages(scripts, write, tmp_path):
    """Links to code, Markdown and folders lead to pages of the site.

    Links in code do not change.
    """
    write(
        "docs/a.md",
        "[b](b.md) [c](../code/c.py) [r](../code) [n](../note.md#x)\n```\n[d](../d)\n```\n",
    )
    write("docs/b.md", "# B\n")
    write("code/c.py", "print()\n")
    write("note.md", "# Note\n\n[a](docs/a.md)\n")
    scripts("stage").stage(tmp_path, tmp_path / "out")
    assert (tmp_path / "out/a.md").read_text() == (
        "[b](b.md) [c](source/code/c.py.md) [r](source/code.md) [n](source/note.md#x)\n"
        "```\n[d](../d)\n```\n"
    )
    assert "````python\nprint()\n````" in (tmp_path / "out/source/code/c.py.md").read_text()
    assert "[a](../a.md)" in (tmp_path / "out/source/note.md").read_text()
    assert "- [c.py](code/c.py.md)" in (tmp_path / "out/source/code.md").read_text()


def test_broken_link_is_refused(scripts, write, tmp_path):
    """A link to a missing file is an error with the page and the link."""
    write("docs/a.md", "[x](../gone.py)\n")
    stage = scripts("stage")
    with pytest.raises(
        stage.StageError, match=r"docs/a\.md: the link \.\./gone\.py leads to nothing"
    ):
        stage.stage(tmp_path, tmp_path / "out")


def test_faults_of_a_site_are_found(scripts, write, tmp_path):
    """Missing pages, unreferenced pages, broken links and files of other hosts are reported."""
    write("zensical.toml", CONFIGURATION)
    write("pages/index.md", "# Home\n")
    write("pages/lost.md", "# Lost\n")
    write("pages/source/fine.md", "# Not in the navigation, as nothing below source/\n")
    write(
        "site/index.html",
        '<p id="here"><a href="#here"></a><a href="#nowhere"></a><a href="gone/"></a>'
        '<a href="https://example.org"></a><script src="https://example.org/x.js"></script>'
        '<link rel="canonical" href="https://example.org/"><img src="lost/index.html">'
        "<p>text\n- item</p><pre>\n- code</pre>",
    )
    write("site/lost/index.html", '<a href="../index.html#here"></a><a href="..#there"></a>')
    assert sorted(scripts("links").find_faults(tmp_path / "zensical.toml")) == [
        "gone.md: in the navigation, but there is no such page",
        "index.html: loads https://example.org/x.js from another host",
        "index.html: the link #nowhere leads nowhere",
        "index.html: the link gone/ leads nowhere",
        "index.html: the list at '- item' needs an empty line above it",
        "lost.md: the page is not in the navigation of zensical.toml",
        "lost/index.html: the link ..#there leads nowhere",
    ]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a | b\n  c", "a \\| b c"),
        ("HOST:<port> and `<a>` * 2", "HOST:&lt;port> and `<a>` \\* 2"),
    ],
)
def test_cells_of_tables_are_escaped(scripts, text, cell):
    """Borders, HTML and emphasis are escaped, and code is not."""
    assert scripts("markdown_text").escape(text) == cell
