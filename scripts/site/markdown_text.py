"""Pieces of Markdown that the generated pages share."""

import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Written by `make reference`; `make check` compares. Do not edit. -->\n"


def escape(text: str) -> str:
    """Returns text on one line in which a table cell and HTML have no special characters."""
    one_line = " ".join(text.split())
    parts = re.split(r"(`[^`]*`)", one_line)  # code stays as it is, but for the cell's border
    prose = (
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*")
        for part in parts
    )
    return "".join(prose).replace("|", "\\|")


def join_paragraphs(text: str) -> str:
    """Returns the paragraphs of a comment, each on one line and without HTML."""
    return "\n\n".join(escape(each) for each in re.split(r"\n\s*\n", text.strip()) if each.strip())


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the cells must be escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
