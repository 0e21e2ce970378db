"""A report by the command, and what is on its page."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from cxrbatch import cli

TableMaker = Callable[..., Path]


def text_of(page: Path) -> str:
    """The page's words, one space apart."""
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", words)


def report(table: Path, *words: str) -> Path:
    page = table.with_name("page.html")
    assert cli.main(["report", str(table), "-o", str(page), "--overwrite", *words]) == 0
    return page


class Nodes(HTMLParser):
    """Counts elements by name and by the attributes that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1


def nodes(page: Path) -> Counter[tuple[str, tuple[str, ...]]]:
    parser = Nodes()
    parser.feed(page.read_text())
    return parser.found
