"""Every command in the documentation exists, and a block that no test runs says why."""

import re
from pathlib import Path

import pytest
from page_commands import PAGES, ROOT, blocks_of, parse_command, split_commands

# Allowed reasons why a block cannot run in the tests.
REASONS = {
    "measures for minutes",
    "needs a GPU",
    "needs a cluster",
    "needs a container engine",
    "needs root and systemd",
    "needs a trained run",
    "needs files of yours",
    "needs other programs",
    "needs servers of yours",
    "no shipped model takes a source yet",
    "other tests run it",
    "trains for hours",
    "trains for minutes",
}
# Commands that take minutes or hours.
LONG = {"bench", "evaluate", "export", "train"}
SHELL = {page: [each for each in blocks_of(page) if each.language == "sh"] for page in PAGES}


def commands_of(page):
    """Returns the words of each command of a page."""
    lines = [line for block in SHELL[page] for line in block.lines]
    return [words for line in lines for words in split_commands(line)]


@pytest.mark.parametrize("page", [page for page in PAGES if SHELL[page]])
def test_commands_are_parsed_by_themselves(page):
    """Each `imagemint` line has a command, options and values that its real parser takes."""
    for words in commands_of(page):
        if words[0] == "imagemint":
            parse_command(words)


@pytest.mark.parametrize("page", [page for page in PAGES if SHELL[page]])
def test_other_programs_of_the_project_exist(page):
    """Each `make` verb is in the Makefile, and each script is a file."""
    makefile = (ROOT / "Makefile").read_text()
    for name, *arguments in commands_of(page):
        if name == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE), arguments
        if name == "python" and not arguments[0].startswith("-"):
            assert Path(ROOT / arguments[0]).exists(), arguments


@pytest.mark.parametrize("page", [page for page in PAGES if SHELL[page]])
def test_reasons_not_to_run_a_block_are_known(page):
    """A mark above a block of shell has one of the reasons."""
    marks = re.findall(r"<!-- not run: (.+?) -->", (ROOT / page).read_text())
    assert [block.reason for block in blocks_of(page) if block.reason] == marks
    assert set(marks) <= REASONS


@pytest.mark.parametrize("page", [page for page in PAGES if SHELL[page]])
def test_long_commands_are_marked(page):
    """No block that the tests run trains, evaluates, exports or measures: it would take hours."""
    lines = [line for block in SHELL[page] if not block.reason for line in block.lines]
    for words in (words for line in lines for words in split_commands(line)):
        is_long = words[:1] == ["imagemint"] and words[1] in LONG and words[2:] != ["--list"]
        assert not is_long, f"mark the block of: {' '.join(words)}"
