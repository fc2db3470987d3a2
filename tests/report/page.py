"""A page as its tests read it."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The page as a browser reads it: elements with their attributes, tables as rows of words, and all words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self.scores: dict[str, str] = {}
        self._score = ""
        self._in_cell = False
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.elements.append((tag, given))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        self._score = given.get("data-score", "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("tr", "table"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] == "style":
            return
        self.words += data
        if self._score:
            self.scores[self._score] = data
            self._score = ""
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def table(self, *header: str) -> list[list[str]]:
        """The rows of all tables whose header begins with these words."""
        return [row for table in self.rows() if table[0][: len(header)] == list(header) for row in table[1:]]

    def rows(self) -> list[list[list[str]]]:
        """The rows of each table, without extra spaces."""
        return [[[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables]

    def drawn(self, label: str) -> list[str]:
        """The words of an SVG in an element with this label."""
        svg = self.source.partition(f'aria-label="{label}')[2].partition("</svg>")[0]
        return re.findall(r"<text[^>]*>([^<]*)</text>", svg)

    def sources(self, tag: str) -> list[str]:
        return [given["src"] for name, given in self.elements if name == tag]

    def drawings(self) -> list[str]:
        """The content of each SVG element."""
        return self.source.replace("</svg>", "<svg").split("<svg")[1::2]

    def check(self) -> None:
        """Check that the page loads nothing, closes its elements and has no id twice."""
        for tag, given in self.elements:
            assert tag not in ("script", "link", "iframe", "object", "base")
            assert not any(name.startswith("on") for name in given), given
            for name in ("src", "href", "poster", "srcset", "xlink:href"):
                assert given.get(name, "#").startswith(("data:", "#")), given
            assert "url(" not in given.get("style", "").replace("url(#", "")
        assert "@import" not in self.source
        # A table cell need not be closed.
        for tag in (
            "div",
            "table",
            "details",
            "figure",
            "svg",
            "span",
            "bdi",
            "video",
            "p",
            "h2",
            "h3",
            "summary",
            "dl",
        ):
            opened = self.source.count(f"<{tag} ") + self.source.count(f"<{tag}>")
            assert opened == self.source.count(f"</{tag}>"), tag
        seen: set[str] = set()
        for svg in self.drawings():
            names = {piece.split('"')[0] for piece in svg.split(' id="')[1:]}
            used = {piece.split('"')[0] for piece in svg.split('xlink:href="#')[1:]}
            used |= {piece.split(")")[0] for piece in svg.split("url(#")[1:]}
            assert used and used <= names
            assert not names & seen
            seen |= names
