"""The commands in the pages of the documentation. Imported by name, as held_backend is.

A block of shell (```sh) is run by a test, or the line above it says why not:

    <!-- not run: trains for hours -->

Whether it runs or not, each `imagemint` command in it is parsed by the command itself.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from imagemint.client.settings import gather_settings

ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
]
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"^ *```(?P<language>sh|python)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
_OPERATORS = {"|", "&&", "||", ";", "&"}
_REDIRECTIONS = {">", ">>", "<"}


@dataclass(frozen=True)
class Block:
    """A block of shell or Python in a page.

    Attributes:
        language: `sh` or `python`.
        text: the block without its fence.
        reason: why no test runs it; empty if one does.
    """

    language: str
    text: str
    reason: str

    @property
    def lines(self) -> list[str]:
        """Lines of a shell block, with continued lines joined and without indentation."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in joined if line.strip()]


def blocks_of(page: str) -> list[Block]:
    """Returns the blocks of shell and Python of a page, in order."""
    return [
        Block(found["language"], found["text"], found["reason"] or "")
        for found in _BLOCK.finditer((ROOT / page).read_text())
    ]


def split_commands(line: str) -> Iterator[list[str]]:
    """Yields the words of each command of a line, without variables and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _OPERATORS:
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        cut = next((at for at, each in enumerate(words) if each in _REDIRECTIONS), len(words))
        if words:
            yield words[:cut]
        words = []


def parse_command(words: list[str]) -> None:
    """Parses `imagemint NAME ...` with the parser of the command itself.

    Raises:
        UsageError: an unknown option, or a value that the command refuses.
    """
    name, *arguments = words[1:]
    (entry,) = entry_points(group="imagemint.commands", name=name)
    command = entry.load()
    if hasattr(command, "list_variants"):
        variant = arguments.pop(0)
        if variant.startswith("--"):
            assert variant in command.list_variants()
            return
        command = command.load_variant(variant)
    gather_settings(command, f"imagemint {name}", arguments)
